"""Creating and updating contact cards by Linq's rules: what is tried again, what is waited for, and what else to do.

Linq keeps one card a line. It creates one where none is active, in place of an inactive one, and updates only an active
one. Both together are allowed three times a line in ten minutes. Unlike a share, writing a card twice does no harm.
"""

import asyncio
import math
import shlex
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal
from urllib.parse import urlsplit

from worker.account import Card
from worker.clock import Clock, unless_stopped
from worker.errors import UsageError
from worker.linq.answers import CardInactive, ErrorCode, LinqError, NeverSent, PerhapsDone, RateLimited
from worker.linq.client import Linq
from worker.linq.phone_numbers import e164

PAUSES_SECONDS: Final = (2.0, 10.0)
"""Before the second and the third try of what did not complete (2022); Linq would refuse a fourth one."""

WINDOW_SECONDS: Final = 600.0
"""Linq allows three creations and updates a line in this time; how long to wait where it names no time."""

ACTIVE_SECONDS: Final = 60.0
"""How long a card may take to become active before the wait is given up."""

LOOK_SECONDS: Final = 2.0
"""Between two looks at a card that is not active yet."""

Verb = Literal["create", "update"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """What a card is to hold; None: not given."""

    phone_number: str
    first_name: str | None = None
    last_name: str | None = None
    image_url: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What came of it.

    Attributes:
        card: the line's card as Linq has it now; None where there is none, or nobody knows.
        problem: why it is not done, in one line; None where the card is active and holds what was asked for.
        advice: what to do about the problem.
    """

    card: Card | None
    problem: str | None = None
    advice: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LineCard:
    """A line with its card, if it has one, and how many chats depend on it; None where nobody knows."""

    phone_number: str
    card: Card | None
    chats: int | None


def fields(
    phone_number: str, *, first_name: str | None = None, last_name: str | None = None, image_url: str | None = None
) -> Fields:
    """What a command line asks for, checked before Linq is called.

    Raises:
        UsageError: a value that Linq would refuse, or that no card should hold.
    """
    if first_name is not None and not first_name.strip():
        msg = "the first name is empty; a card needs one"
        raise UsageError(msg)
    for name, text in (("first", first_name), ("last", last_name)):
        if text is not None and any(letter < " " or letter == "\x7f" for letter in text):
            msg = f"the {name} name is {text!r}; it may not hold line breaks or other control characters"
            raise UsageError(msg)
    if image_url is not None:
        _require_https(image_url)
    return Fields(
        phone_number=e164(phone_number),
        first_name=first_name and first_name.strip(),
        last_name=None if last_name is None else last_name.strip(),
        image_url=image_url,
    )


def overview(cards: Collection[Card], chats_of: Mapping[str, int] | None) -> list[LineCard]:
    """Each card, and each line that has chats but no card, in the order of the numbers."""
    counted = chats_of or {}
    found = {
        card.phone_number: LineCard(
            phone_number=card.phone_number,
            card=card,
            chats=None if chats_of is None else counted.get(card.phone_number, 0),
        )
        for card in cards
    }
    for line, count in counted.items():
        found.setdefault(line, LineCard(phone_number=line, card=None, chats=count))
    return [found[line] for line in sorted(found)]


def repair(line: LineCard) -> str:
    """The command line that gives a line an active card: the one it has, where it has one."""
    return command("create", _filled(Fields(phone_number=line.phone_number), line.card))


@dataclass(frozen=True, kw_only=True)
class CardWriter:
    """Creates and updates cards, and waits until they are active; `say` is told what takes time, `stop` ends a wait."""

    linq: Linq
    clock: Clock
    stop: asyncio.Event
    say: Callable[[str], None]

    async def create(self, wanted: Fields) -> Written:
        """Create a line's card, and wait until it is active."""

        async def write() -> Card:
            return await self.linq.create_card(
                wanted.phone_number,
                first_name=wanted.first_name or "",
                last_name=wanted.last_name or None,
                image_url=wanted.image_url,
            )

        return await self._write("create", wanted, write)

    async def update(self, wanted: Fields) -> Written:
        """Change what is given of a line's active card, and wait until it is active again."""

        async def write() -> Card:
            return await self.linq.update_card(
                wanted.phone_number,
                first_name=wanted.first_name,
                last_name=wanted.last_name,
                image_url=wanted.image_url,
            )

        return await self._write("update", wanted, write)

    async def _write(self, verb: Verb, wanted: Fields, write: Callable[[], Awaitable[Card]]) -> Written:
        """Write a card, up to three times while Linq says that it did not complete, and wait until it is active."""
        tries = 0
        while True:
            try:
                card = await write()
                break
            except LinqError as error:
                if error.code == ErrorCode.CARD_EXISTS and tries:  # an earlier try was done after all
                    return await self._look_again(verb, wanted, error)
                if error.code != ErrorCode.CARD_NOT_COMPLETED or tries == len(PAUSES_SECONDS):
                    return await self._not_written(verb, wanted, error)
                failed = error
            pause = PAUSES_SECONDS[tries]
            tries += 1
            self.say(f"Linq did not complete it ({failed}); trying again in {pause:g} s")
            await unless_stopped(self.stop, self.clock.sleep(pause))
            if self.stop.is_set():
                return Written(
                    card=None, problem=f"it was ended before another try ({failed})", advice=command(verb, wanted)
                )
        return await self._until_active(card)

    async def _until_active(self, card: Card) -> Written:
        if card.is_active:
            return Written(card=card)
        self.say(f"Linq has the card, and is applying it; waiting up to {ACTIVE_SECONDS:g} s until it is active")
        deadline = self.clock.monotonic() + ACTIVE_SECONDS
        failed: LinqError | None = None
        while self.clock.monotonic() < deadline and not self.stop.is_set():
            await unless_stopped(self.stop, self.clock.sleep(LOOK_SECONDS))
            try:
                seen = await unless_stopped(self.stop, self.linq.find_card(card.phone_number))
                card, failed = seen or card, None
            except LinqError as error:
                failed = error
            if card.is_active:
                return Written(card=card)
        if self.stop.is_set():
            problem = "Linq has the card, but it was not active yet when the wait was ended"
        else:
            why = f"the last look at it failed: {failed}" if failed else "Linq does not say why"
            problem = f"Linq has the card, but it is not active after {ACTIVE_SECONDS:g} s ({why})"
        return Written(card=card, problem=problem, advice="look again with: share-worker cards list")

    async def _not_written(self, verb: Verb, wanted: Fields, error: LinqError) -> Written:
        """Why Linq did not write the card, and what to do, by what it has now."""
        if isinstance(error, NeverSent):
            problem = f"Linq cannot be reached, and nothing was sent ({error})"
            return Written(card=None, problem=problem, advice="try again once it can be reached")
        if isinstance(error, RateLimited):
            problem = f"Linq takes three creations and updates a line in ten minutes ({error})"
            return Written(card=None, problem=problem, advice=_try_again(error, command(verb, wanted)))
        if isinstance(error, PerhapsDone):
            return await self._look_again(verb, wanted, error)
        if isinstance(error, CardInactive):
            card = await self._as_it_is(wanted)
            has = (
                "has no active card"
                if card is None
                else "has a card that is not active, and Linq updates only an active one"
            )
            problem = f"the line {has} ({error})"
            return Written(card=card, problem=problem, advice=_instead("create", _filled(wanted, card)))
        if error.code == ErrorCode.CARD_EXISTS:
            problem = f"the line has an active card already ({error})"
            return Written(card=await self._as_it_is(wanted), problem=problem, advice=_instead("update", wanted))
        return Written(card=None, problem=f"Linq refused it ({error})")

    async def _look_again(self, verb: Verb, wanted: Fields, error: LinqError) -> Written:
        """Whether a card was written after all, where Linq's answer does not say so."""
        card = await self._as_it_is(wanted)
        if card is not None and card.is_active and _holds(card, wanted):
            return Written(card=card)
        if error.code == ErrorCode.CARD_EXISTS:
            problem = f"the line has an active card, but not known to be as asked for ({error})"
            return Written(card=card, problem=problem, advice=_instead("update", wanted))
        limited = error.code in {ErrorCode.UPSTREAM_LIMITED, ErrorCode.CARD_NOT_COMPLETED}
        problem = f"Linq did not complete it ({error})" if limited else f"no answer says whether it was done ({error})"
        if card is not None and not card.is_active:
            verb = "create"
            problem += "; the card is not active now, so the line's chats are not shared with"
        again = command(verb, _filled(wanted, card) if verb == "create" else wanted)
        advice = _try_again(error, again) if limited else f"see 'share-worker cards list', then perhaps: {again}"
        return Written(card=card, problem=problem, advice=advice)

    async def _as_it_is(self, wanted: Fields) -> Card | None:
        """The line's card now; None also where Linq does not tell."""
        try:
            return await unless_stopped(self.stop, self.linq.find_card(wanted.phone_number))
        except LinqError:
            return None


def command(verb: Verb, wanted: Fields) -> str:
    """The command line that asks for a card."""
    words = ["share-worker", "cards", verb, wanted.phone_number]
    given = {"--first-name": wanted.first_name, "--last-name": wanted.last_name, "--image-url": wanted.image_url}
    if verb == "create" and not wanted.first_name:
        given["--first-name"] = "NAME"
    for option, value in given.items():
        if value or (value is not None and verb == "update"):
            words += [option, value]
    return shlex.join(words)


def _holds(card: Card, wanted: Fields) -> bool:
    """Whether a card shows what was asked for; of an image nobody can tell, for Linq keeps its own copy."""
    pairs = ((wanted.first_name, card.first_name), (wanted.last_name, card.last_name))
    return wanted.image_url is None and all(asked is None or asked == (has or "") for asked, has in pairs)


def _filled(wanted: Fields, card: Card | None) -> Fields:
    """What was asked for, and for the rest what the card holds."""
    if card is None:
        return wanted
    return replace(
        wanted,
        first_name=wanted.first_name or card.first_name,
        last_name=card.last_name if wanted.last_name is None else wanted.last_name,
        image_url=wanted.image_url or card.image_url,
    )


def _instead(verb: Verb, wanted: Fields) -> str:
    return f"{verb} it instead: {command(verb, wanted)}"


def _try_again(error: LinqError, again: str) -> str:
    seconds = WINDOW_SECONDS if error.retry_after is None else error.retry_after
    wait = f"{math.ceil(seconds)} s" if seconds < 100 else f"{math.ceil(seconds / 60)} min"
    return f"try again in {wait}: {again}"


def _require_https(url: str) -> None:
    try:
        parts = urlsplit(url)
        fit = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fit = False
    if not fit or not url.isascii() or not url.isprintable() or " " in url:
        msg = f"the image URL is {url!r}, but may be an https:// URL with a host, such as https://example.com/logo.png"
        raise UsageError(msg)
