"""What `serve` does with Linq's events: writes what they say, many in one transaction, and reads what they leave out.

An event is done when it is written; what cannot be written now, Linq sends again. Any replica may get any event.
"""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import db
from worker.chats import facts
from worker.chats.events import apply_events, take_card, take_line
from worker.chats.sources import Source, note_heard
from worker.clock import Clock
from worker.linq.answers import Chat, LinqError
from worker.linq.client import Linq
from worker.linq.webhooks import (
    AccountChanged,
    CardReceived,
    ChatCreated,
    ChatEvent,
    Event,
    LineChanged,
    UnavailableError,
)

ANSWER_SECONDS: Final = 8.0
"""Linq waits ten for an answer."""

MOST_AT_ONCE: Final = 200
"""Events in one transaction."""

GATHERING_SECONDS: Final = 0.01
"""How long events are waited for before they are written together: a pass needs the database too."""

NOTED_EVERY_SECONDS: Final = 60.0
"""How often it is noted that events come."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Waiting:
    """An event that is to be written; `done` becomes whether the table has its chat."""

    event: ChatEvent
    described: Mapping[str, Chat]
    done: "asyncio.Future[bool]"


class Inbox:
    """Takes events in, in the order they come."""

    def __init__(self, engine: AsyncEngine, linq: Linq, clock: Clock) -> None:
        self._engine = engine
        self._linq = linq
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._read_at = clock.monotonic()
        """When the account was read last, or before."""
        self._noted_at = -math.inf

    async def take(self, event: Event) -> None:
        """Write what an event says.

        Raises:
            UnavailableError: the database cannot be reached, or Linq cannot be asked for what the event leaves out.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._take(event)
                await self._note_heard()
        except (SQLAlchemyError, LinqError, TimeoutError) as error:
            raise UnavailableError from error

    async def finished(self) -> None:
        """Wait until what is being written is written."""
        if self._writer is not None:
            await self._writer

    async def _note_heard(self) -> None:
        if self._clock.monotonic() - self._noted_at < NOTED_EVERY_SECONDS:
            return
        self._noted_at = self._clock.monotonic()
        await note_heard(self._engine, Source.WEBHOOKS, self._clock.now())

    async def _take(self, event: Event) -> None:
        match event:
            case AccountChanged():
                await self._read_account(self._clock.monotonic())
            case LineChanged():
                async with db.write(self._engine) as connection:
                    await take_line(connection, event)
            case CardReceived():
                await self._take_card(event)
            case _:
                is_known = await self._write(event, {})
                if not is_known and event.chat_id is not None:
                    chat = await self._linq.find_chat(event.chat_id)
                    if chat is not None:
                        await self._write(event, {chat.id: chat})

    async def _take_card(self, event: CardReceived) -> None:
        async with db.write(self._engine) as connection:
            if await take_card(connection, event):
                return
        chat = await self._linq.find_direct_chat(event.line, event.sender)
        if chat is None:
            return
        now = self._clock.now()
        async with db.write(self._engine) as connection:
            await apply_events(connection, [ChatCreated(chat=chat, at=now)], now)
            await take_card(connection, event)

    async def _read_account(self, since: float) -> None:
        """Read the account's cards and lines again, as a pass does; once for all events that came before it began."""
        async with self._reading:
            if self._read_at > since:
                return
            began = self._clock.monotonic()
            cards, account_lines = await self._linq.list_cards(), await self._linq.phone_numbers()
            async with db.write(self._engine) as connection:
                now = self._clock.now()
                await facts.store_cards(connection, cards, now)
                await facts.store_lines(connection, account_lines, now)
            self._read_at = began

    async def _write(self, event: ChatEvent, described: Mapping[str, Chat]) -> bool:
        """Have an event written together with those that wait; False if the table does not have its chat."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(event=event, described=described, done=done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        return await done

    async def _write_all(self) -> None:
        while self._waiting:
            await self._clock.sleep(GATHERING_SECONDS)
            batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            try:
                async with db.write(self._engine) as connection:
                    unknown = await self._apply(connection, batch)
            except Exception as error:  # each of them is told, whatever it is
                if not isinstance(error, SQLAlchemyError):
                    log.exception("webhook.broke")
                for waiting in batch:
                    if not waiting.done.done():
                        waiting.done.set_exception(error)
            else:
                for waiting in batch:
                    if not waiting.done.done():
                        waiting.done.set_result(waiting.event.chat_id not in unknown)

    async def _apply(self, connection: AsyncConnection, batch: list[_Waiting]) -> set[str]:
        described = {chat_id: chat for waiting in batch for chat_id, chat in waiting.described.items()}
        return await apply_events(connection, [waiting.event for waiting in batch], self._clock.now(), described)
