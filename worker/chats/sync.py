"""Brings the table `chats` up to date from Linq: every chat, its newest messages where it changed, and who is gone.

A page of chats is read, then the messages of those that are new or changed, and all of it is committed at once. Each
row says by `linq_updated_at` up to where its messages were read: a sync that was ended goes on by itself with the next
one, which reads the pages again and no messages that it has. `synced_at` is when the sync began that saw the chat last.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar, cast

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.chats.merge import Merged, ReadChat, StoredChat, mark_missing, merge, stored, unseen
from worker.chats.newest import Newest, newest_messages
from worker.chats.sources import Source, note_failed, note_heard
from worker.clock import CLOCK_ERROR, Clock, unless_stopped
from worker.linq.answers import AccessRefused, Chat, ErrorCode, LinqError, RateLimited
from worker.linq.client import PAGE_SIZE, Linq

MOST_CONFIRMED: Final = 10_000
"""Chats that one sync asks for by id because Linq did not list them; the next sync goes on with the others."""

FEWEST_OF_AN_ACCOUNT: Final = 10
"""If the table has so many chats and Linq lists none of them, the key is taken for that of another account."""

FAILURES_IN_A_ROW: Final = 10
"""So many chats in a row that cannot be read end the sync."""

PROGRESS_SECONDS: Final = 30.0
"""Between two log lines about a sync that goes on."""

T = TypeVar("T")
K = TypeVar("K")

log = structlog.get_logger(__name__)


@dataclass(kw_only=True, slots=True)
class Synced:
    """What a sync did so far. Each chat that Linq listed is in one of the first five counts."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    skipped: int = 0
    """No line of the account is active in them, and the table does not have them."""
    failed: int = 0
    """Their messages could not be read, or Linq did not say whether they are there."""
    back: int = 0
    """Of the changed ones: they were missing."""
    missing: int = 0
    """They were in the table, and Linq has them no more."""
    unconfirmed: int = 0
    """Linq did not list them; the next sync asks for them."""
    complete: bool = False
    """Everything was read."""
    reason: str | None = None
    """Why not."""

    @property
    def chats(self) -> int:
        """The chats that were read."""
        return self.new + self.changed + self.unchanged + self.skipped + self.failed


class _EndedError(Exception):
    """The sync ends before everything is read; the message says why."""


class _StoppedError(Exception):
    """The sync was told to stop."""


async def sync_chats(
    engine: AsyncEngine,
    linq: Linq,
    done: Synced,
    *,
    lines: Collection[str] = (),
    concurrency: int,
    clock: Clock,
    stop: asyncio.Event,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Read every chat of these lines (none: of every line) until `stop` is set; `done` says what came of it.

    At most `concurrency` requests are in flight; the client's pace says how many a second. `watch` is called as chats
    are read. What was committed stays, however it ends.

    Raises:
        SQLAlchemyError: the database failed.
    """
    sync = _Sync(engine, linq, done, concurrency=concurrency, clock=clock, stop=stop, watch=watch)
    log.info("sync.started", lines=list(lines) or None)
    began = clock.monotonic()

    def fields() -> dict[str, object]:
        return {"complete": done.complete, "seconds": round(clock.monotonic() - began, 1), **counts(done)}

    try:
        await sync.run(lines)
    except _StoppedError:
        done.reason = "it was told to stop"
        log.info("sync.ended", **fields())
    except _EndedError as error:
        done.reason = str(error)
        log.error("sync.failed", reason=done.reason, **fields())
        await note_failed(engine, Source.SYNC, clock.now(), done.reason)
    except SQLAlchemyError as error:
        done.reason = db.describe(error, engine.url)
        log.error("sync.failed", reason=done.reason, **fields())
        raise
    else:
        done.complete = True
        if not lines:
            await note_heard(engine, Source.SYNC, clock.now())
        log.info("sync.ended", **fields())


async def sync_before_pass(
    engine: AsyncEngine, linq: Linq, *, concurrency: int, clock: Clock, stop: asyncio.Event
) -> str | None:
    """Read every chat, or say why that failed; raises nothing, so that a pass goes on with the table as it is."""
    done = Synced()
    try:
        await sync_chats(engine, linq, done, concurrency=concurrency, clock=clock, stop=stop)
    except SQLAlchemyError:
        return done.reason
    except Exception as error:
        log.exception("sync.failed", reason="the sync broke")
        return f"the sync broke: {type(error).__name__}"
    return done.reason


class _Sync:
    """One sync, from its beginning to its end."""

    def __init__(
        self,
        engine: AsyncEngine,
        linq: Linq,
        done: Synced,
        *,
        concurrency: int,
        clock: Clock,
        stop: asyncio.Event,
        watch: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._linq = linq
        self._done = done
        self._slots = asyncio.Semaphore(concurrency)
        self._clock = clock
        self._stop = stop
        self._watch = watch
        self._started = clock.now()
        self._logged_at = clock.monotonic()
        self._failures = 0
        self._ended: LinqError | None = None
        self._has_seen_known = False

    async def run(self, lines: Collection[str]) -> None:
        """Read everything.

        Raises:
            _EndedError: not everything could be read.
            _StoppedError: told to stop.
        """
        listings: Iterable[str | None] = lines or [None]
        for line in listings:
            await self._read_listing(line)
            await self._read_what_moved(line)
        if self._done.failed:
            msg = f"{self._done.failed:,} chats could not be read"
            raise _EndedError(msg)
        await self._look_for_the_unseen(lines)

    async def _read_listing(self, line: str | None) -> None:
        async with aclosing(self._linq.chat_pages(line)) as pages:
            while True:
                asked_at = self._clock.now()
                page = await self._next_page(pages)
                if page is None:
                    return
                await self._take(page, asked_at)

    async def _read_what_moved(self, line: str | None) -> None:
        """Read the first pages again, as long as they show chats that were not seen.

        While pages are read, a chat that changes may move to a page that was read before.
        """
        async with aclosing(self._linq.chat_pages(line)) as pages:
            while True:
                asked_at = self._clock.now()
                page = await self._next_page(pages)
                if not page:
                    return
                async with db.read(self._engine) as connection:
                    known = await stored(connection, {chat.id for chat in page})
                moved = [chat for chat in page if not self._is_seen(chat, known.get(chat.id))]
                if not moved:
                    return
                await self._take(moved, asked_at)

    def _is_seen(self, chat: Chat, row: StoredChat | None) -> bool:
        if row is None:
            return chat.line is None
        return row.synced_at is not None and row.synced_at >= self._started

    async def _take(self, page: Iterable[Chat], asked_at: datetime) -> None:
        """Read the messages of the chats that need it, and commit them all."""
        chats = {chat.id: chat for chat in page}
        async with db.read(self._engine) as connection:
            known = await stored(connection, chats)
        newest = await self._read_messages(chats.values(), known)
        read = [
            ReadChat(chat=chat, newest=newest[chat.id], asked_at=asked_at)
            for chat in chats.values()
            if chat.id in newest
        ]
        async with db.write(self._engine) as connection:
            merged = await merge(connection, read, started=self._started, now=self._clock.now())
        for each in read:
            row = known.get(each.chat.id)
            self._has_seen_known |= row is not None
            if row is None or row.synced_at != self._started:  # else it moved here from another page
                self._count(merged[each.chat.id], failed=each.newest is None)
        self._watch()
        self._log_progress()

    async def _read_messages(self, chats: Iterable[Chat], known: Mapping[str, StoredChat]) -> dict[str, Newest | None]:
        """The newest messages of each chat, as far as the table may not know them; None: they could not be read.

        A chat that Linq no longer has is left out.
        """
        newest: dict[str, Newest | None] = {}
        changed: list[Chat] = []
        for chat in chats:
            row = known.get(chat.id)
            if row is not None and chat.updated_at is not None and row.linq_updated_at == chat.updated_at:
                newest[chat.id] = Newest()
            elif row is None and chat.line is None:
                newest[chat.id] = Newest()  # it is skipped
            else:
                changed.append(chat)

        async def read(chat: Chat) -> Newest:
            row = known.get(chat.id)
            async with aclosing(self._linq.message_pages(chat.id)) as pages:
                return await newest_messages(pages, self._known(row), row.linq_updated_at if row else None)

        answers = await self._all(read, changed)
        for chat, answer in zip(changed, answers, strict=True):
            if isinstance(answer, Newest):
                newest[chat.id] = answer
            elif answer.code != ErrorCode.CHAT_NOT_FOUND:
                newest[chat.id] = None
        return newest

    def _known(self, row: StoredChat | None) -> Newest:
        """The times of a row that say something: those that are not in the future."""
        latest_possible = self._clock.now() + CLOCK_ERROR
        times = (row.last_outbound_at, row.last_inbound_at) if row else (None, None)
        outbound, inbound = (at if at is not None and at <= latest_possible else None for at in times)
        return Newest(outbound=outbound, inbound=inbound)

    async def _look_for_the_unseen(self, lines: Collection[str]) -> None:
        """Ask for each chat of the table that Linq did not list: only if Linq has none, it is missing."""
        async with db.read(self._engine) as connection:
            ids, total = await unseen(
                connection, lines, started=self._started, now=self._clock.now(), at_most=MOST_CONFIRMED
            )
        if not self._has_seen_known and total >= FEWEST_OF_AN_ACCOUNT:
            msg = (
                "Linq lists none of the chats in the table, so the key may be that of another account;"
                " no chat was marked as missing"
            )
            raise _EndedError(msg)
        for start in range(0, len(ids), PAGE_SIZE):
            await self._confirm(ids[start : start + PAGE_SIZE])
        self._done.unconfirmed = total - len(ids)
        if self._done.failed:
            msg = f"Linq did not say of {self._done.failed:,} chats whether they are there"
            raise _EndedError(msg)

    async def _confirm(self, ids: Sequence[str]) -> None:
        asked_at = self._clock.now()
        answers = await self._all(self._linq.find_chat, ids)
        gone = [chat_id for chat_id, answer in zip(ids, answers, strict=True) if answer is None]
        self._done.failed += sum(isinstance(answer, LinqError) for answer in answers)
        async with db.write(self._engine) as connection:
            self._done.missing += await mark_missing(
                connection, gone, asked_at=asked_at, started=self._started, now=self._clock.now()
            )
        await self._take([answer for answer in answers if isinstance(answer, Chat)], asked_at)

    async def _all(self, read: Callable[[K], Awaitable[T]], about: Sequence[K]) -> list[T | LinqError]:
        """What is read about each of these, all at once; an error in place of what could not be read.

        Raises:
            _EndedError: the key was refused, or too many in a row failed.
            _StoppedError: told to stop.
        """

        async def read_one(item: K) -> T | LinqError:
            async with self._slots:
                if self._ended is not None:
                    return self._ended
                try:
                    answer = await read(item)
                except LinqError as error:
                    self._failed(error)
                    return error
            self._failures = 0
            self._watch()
            return answer

        async def read_all() -> list[T | LinqError]:
            return await asyncio.gather(*map(read_one, about))

        answers = await self._unless_stopped(read_all())
        if self._ended is not None:
            raise _EndedError(_why(self._ended, f"{FAILURES_IN_A_ROW} reads in a row failed, the last one"))
        return answers

    def _failed(self, error: LinqError) -> None:
        """Take in that something could not be read, unless it is only that Linq has no such chat."""
        if error.code == ErrorCode.CHAT_NOT_FOUND:
            return
        self._failures += 1
        if isinstance(error, AccessRefused | RateLimited) or self._failures >= FAILURES_IN_A_ROW:
            self._ended = error

    async def _next_page(self, pages: AsyncIterator[list[Chat]]) -> list[Chat] | None:
        """The next page of chats; None after the last one.

        Raises:
            _EndedError: it cannot be read.
            _StoppedError: told to stop.
        """
        try:
            return await self._unless_stopped(_following(pages))
        except LinqError as error:
            raise _EndedError(_why(error, "a page of chats could not be read")) from error

    async def _unless_stopped(self, work: Coroutine[None, None, T]) -> T:
        result = await unless_stopped(self._stop, work)
        if self._stop.is_set():
            raise _StoppedError
        return cast("T", result)  # None only if that is the work's own result

    def _count(self, merged: Merged, *, failed: bool) -> None:
        if failed:
            self._done.failed += 1
            return
        match merged:
            case Merged.NEW:
                self._done.new += 1
            case Merged.CHANGED | Merged.BACK:
                self._done.changed += 1
                self._done.back += merged is Merged.BACK
            case Merged.UNCHANGED:
                self._done.unchanged += 1
            case Merged.SKIPPED:
                self._done.skipped += 1

    def _log_progress(self) -> None:
        now = self._clock.monotonic()
        if now - self._logged_at >= PROGRESS_SECONDS:
            self._logged_at = now
            log.info("sync.progress", **counts(self._done))


async def _following(pages: AsyncIterator[list[Chat]]) -> list[Chat] | None:
    return await anext(pages, None)


def _why(error: LinqError, otherwise: str) -> str:
    return f"Linq refused the key: {error}" if isinstance(error, AccessRefused) else f"{otherwise}: {error}"


def counts(done: Synced) -> dict[str, int]:
    """The counts of a sync, by name."""
    names = ("chats", "new", "changed", "unchanged", "skipped", "failed", "back", "missing", "unconfirmed")
    return {name: getattr(done, name) for name in names}
