"""Creates and updates contact cards by Linq's rules: what is retried, what is waited for, and what to advise.

Linq keeps one card per line. Creating needs a line without an active card, and replaces an inactive one; updating needs
an active card. Linq allows both together three times per line in ten minutes. Unlike a share, a card written twice does
no harm.
"""

import asyncio
import math
import shlex
from collections.abc import Awaitable, Callable
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
"""Pauses before the second and third try of a card that did not complete (2022); Linq would refuse a fourth."""

WINDOW_SECONDS: Final = 600.0
"""Linq allows three creations and updates per line in this time; also the wait to advise if Linq names none."""

ACTIVE_SECONDS: Final = 60.0
"""How long to wait for a card to become active."""

LOOK_SECONDS: Final = 2.0
"""The pause between two looks at a card that is not active yet."""

Verb = Literal["create", "update"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """The contents to write to a card; None leaves a field out."""

    phone_number: str
    first_name: str | None = None
    last_name: str | None = None
    image_url: str | None = None
    removes_image: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The result of writing a card.

    Attributes:
        card: the line's card as Linq has it now; None if there is none, or it is not known.
        problem: why the card was not written, in one line; None if it is active and holds what was asked for.
        advice: what to do about the problem.
    """

    card: Card | None
    problem: str | None = None
    advice: str | None = None


def fields(
    phone_number: str,
    *,
    first_name: str | None = None,
    last_name: str | None = None,
    image_url: str | None = None,
    removes_image: bool = False,
) -> Fields:
    """Check the contents for a card before anything is sent to Linq.

    Raises:
        UsageError: a value that Linq would refuse, or that no card should hold.
    """
    if first_name is not None and not first_name.strip():
        msg = "the first name is empty; a card needs one"
        raise UsageError(msg)
    for name, text in (("first", first_name), ("last", last_name)):
        if text is not None and any(letter < " " or letter == "\x7f" for letter in text):
            msg = f"the {name} name is {text!r}; it must not hold line breaks or other control characters"
            raise UsageError(msg)
    if image_url is not None:
        if removes_image:
            msg = "--image-url sets the image and --no-image removes it; give one of them"
            raise UsageError(msg)
        _require_https(image_url)
    return Fields(
        phone_number=e164(phone_number),
        first_name=first_name and first_name.strip(),
        last_name=None if last_name is None else last_name.strip(),
        image_url=image_url,
        removes_image=removes_image,
    )


def repair(phone_number: str, card: Card | None) -> str:
    """The command that gives a line an active card, with the contents of its present card."""
    return command("create", _filled(Fields(phone_number=phone_number), card))


@dataclass(frozen=True, kw_only=True)
class CardWriter:
    """Creates and updates cards, and waits until they are active. `say` gets progress messages; `stop` ends a wait."""

    linq: Linq
    clock: Clock
    stop: asyncio.Event
    say: Callable[[str], None]

    async def create(self, target: Fields) -> Written:
        """Create a line's card, and wait until it is active."""

        async def write() -> Card:
            return await self.linq.create_card(
                target.phone_number,
                first_name=target.first_name or "",
                last_name=target.last_name or None,
                image_url=target.image_url,
            )

        return await self._write("create", target, write)

    async def update(self, target: Fields) -> Written:
        """Change the given fields of a line's active card, and wait until it is active again."""

        async def write() -> Card:
            return await self.linq.update_card(
                target.phone_number,
                first_name=target.first_name,
                last_name=target.last_name,
                image_url=target.image_url,
                removes_image=target.removes_image,
            )

        written = await self._write("update", target, write)
        if target.removes_image and written.problem is None and written.card and written.card.image_url:
            problem = "Linq accepted the update, but the card still has its image"
            advice = "give another one with --image-url, or ask Linq's support to remove it"
            return replace(written, problem=problem, advice=advice)
        return written

    async def _write(self, verb: Verb, target: Fields, write: Callable[[], Awaitable[Card]]) -> Written:
        """Write a card, in up to three tries while Linq says that it did not complete; wait until it is active."""
        tries = 0
        while True:
            try:
                card = await write()
                break
            except LinqError as error:
                if error.code == ErrorCode.CARD_EXISTS and tries:  # an earlier try succeeded after all
                    return await self._look_again(verb, target, error)
                if error.code != ErrorCode.CARD_NOT_COMPLETED or tries == len(PAUSES_SECONDS):
                    return await self._not_written(verb, target, error)
                failed = error
            pause = PAUSES_SECONDS[tries]
            tries += 1
            self.say(f"Linq did not complete it ({failed}); trying again in {pause:g} s")
            await unless_stopped(self.stop, self.clock.sleep(pause))
            if self.stop.is_set():
                return Written(
                    card=None, problem=f"it was ended before another try ({failed})", advice=command(verb, target)
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

    async def _not_written(self, verb: Verb, target: Fields, error: LinqError) -> Written:
        """Why Linq did not write the card, and what to do, given the card it has now."""
        if isinstance(error, NeverSent):
            problem = f"Linq cannot be reached, and nothing was sent ({error})"
            return Written(card=None, problem=problem, advice="try again once it can be reached")
        if isinstance(error, RateLimited):
            problem = f"Linq takes three creations and updates a line in ten minutes ({error})"
            return Written(card=None, problem=problem, advice=_try_again(error, command(verb, target)))
        if isinstance(error, PerhapsDone):
            return await self._look_again(verb, target, error)
        if isinstance(error, CardInactive):
            card = await self._present_card(target)
            has = (
                "has no active card"
                if card is None
                else "has a card that is not active, and Linq updates only an active one"
            )
            problem = f"the line {has} ({error})"
            return Written(card=card, problem=problem, advice=_instead("create", _filled(target, card)))
        if error.code == ErrorCode.CARD_EXISTS:
            problem = f"the line has an active card already ({error})"
            return Written(card=await self._present_card(target), problem=problem, advice=_instead("update", target))
        return Written(card=None, problem=f"Linq refused it ({error})")

    async def _look_again(self, verb: Verb, target: Fields, error: LinqError) -> Written:
        """Look whether the card was written, if Linq's answer does not say."""
        card = await self._present_card(target)
        if card is not None and card.is_active and _holds(card, target):
            return Written(card=card)
        if error.code == ErrorCode.CARD_EXISTS:
            problem = f"the line has an active card, but not known to be as asked for ({error})"
            return Written(card=card, problem=problem, advice=_instead("update", target))
        limited = error.code in {ErrorCode.UPSTREAM_LIMITED, ErrorCode.CARD_NOT_COMPLETED}
        problem = f"Linq did not complete it ({error})" if limited else f"no answer says whether it was done ({error})"
        if card is not None and not card.is_active:
            verb = "create"
            problem += "; the card is not active now, so the line's chats are not shared with"
        again = command(verb, _filled(target, card) if verb == "create" else target)
        advice = _try_again(error, again) if limited else f"see 'share-worker cards list', then perhaps: {again}"
        return Written(card=card, problem=problem, advice=advice)

    async def _present_card(self, target: Fields) -> Card | None:
        """The line's card now; None if there is none, or Linq does not answer."""
        try:
            return await unless_stopped(self.stop, self.linq.find_card(target.phone_number))
        except LinqError:
            return None


def command(verb: Verb, target: Fields) -> str:
    """The command that writes a card with these contents."""
    words = ["share-worker", "cards", verb, target.phone_number]
    given = {"--first-name": target.first_name, "--last-name": target.last_name, "--image-url": target.image_url}
    if verb == "create" and not target.first_name:
        given["--first-name"] = "NAME"
    for option, value in given.items():
        if value or (value is not None and verb == "update"):
            words += [option, value]
    words += ["--no-image"] if target.removes_image and verb == "update" else []
    return shlex.join(words)


def _holds(card: Card, target: Fields) -> bool:
    """True if a card holds the names asked for. False with an image: Linq keeps its own copy, so URLs differ."""
    pairs = ((target.first_name, card.first_name), (target.last_name, card.last_name))
    if target.removes_image and card.image_url:
        return False
    return target.image_url is None and all(asked is None or asked == (present or "") for asked, present in pairs)


def _filled(target: Fields, card: Card | None) -> Fields:
    """The contents asked for, completed from the present card."""
    if card is None:
        return target
    return replace(
        target,
        first_name=target.first_name or card.first_name,
        last_name=card.last_name if target.last_name is None else target.last_name,
        image_url=None if target.removes_image else target.image_url or card.image_url,
    )


def _instead(verb: Verb, target: Fields) -> str:
    return f"{verb} it instead: {command(verb, target)}"


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
        msg = f"the image URL is {url!r}, but must be an https:// URL with a host, such as https://example.com/logo.png"
        raise UsageError(msg)
