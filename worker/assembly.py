"""Puts the worker together from its settings: the one place where a client, an engine or a rule is made of them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.chats import sync
from worker.clock import Clock
from worker.linq.client import Linq
from worker.linq.read_pace import ReadPace
from worker.notifications.heartbeat import Heartbeat
from worker.notifications.notifier import Counted, Notifier, Whom
from worker.notifications.receivers import Receiver, make_receivers
from worker.rules.eligibility import Rules
from worker.rules.schedule import Schedule
from worker.settings import Settings, proxy_for
from worker.sharing.limits import Limits


def rules(settings: Settings) -> Rules:
    """Who is due."""
    return Rules(
        timezone=settings.SHARE_TIMEZONE,
        every_days=settings.SHARE_EVERY_DAYS,
        min_hours=settings.SHARE_MIN_HOURS,
        max_per_chat=settings.SHARE_MAX_PER_CHAT,
        active_days=settings.SHARE_ACTIVE_DAYS,
        include_groups=settings.SHARE_INCLUDE_GROUPS,
        skip_lines_at=None if settings.SHARE_SKIP_LINES_AT == "none" else settings.SHARE_SKIP_LINES_AT,
        require_inbound=settings.SHARE_REQUIRE_INBOUND,
        stop_when_received=settings.SHARE_STOP_WHEN_RECEIVED,
        hours=settings.SHARE_HOURS,
    )


def limits(settings: Settings, at_most: int | None = None) -> Limits:
    """How hard a pass may push."""
    return Limits(
        concurrency=settings.SHARE_CONCURRENCY,
        per_second=settings.SHARE_MAX_PER_SECOND,
        per_second_per_line=settings.SHARE_MAX_PER_SECOND_PER_LINE,
        drain_seconds=settings.SHARE_DRAIN_SECONDS,
        at_most=at_most,
    )


def schedule(settings: Settings) -> Schedule:
    """When `serve` makes its passes."""
    return Schedule(settings.SHARE_SCHEDULE, settings.SHARE_TIMEZONE)


def linq(settings: Settings, clock: Clock, pace: ReadPace | None = None) -> Linq:
    """A client for the account, whose reads keep to `pace`.

    Raises:
        UsageError: the key is not set, or the variable that names the proxy is wrong.
    """
    return Linq(
        settings.api_key,
        base_url=settings.LINQ_BASE_URL,
        timeout=settings.SHARE_REQUEST_TIMEOUT,
        connections=settings.SHARE_CONCURRENCY,
        clock=clock,
        proxy=proxy_for(settings.LINQ_BASE_URL),
        pace=pace,
    )


def read_pace(settings: Settings, clock: Clock) -> ReadPace:
    """How fast a sync reads: as fast as a pass may share."""
    return ReadPace(settings.SHARE_MAX_PER_SECOND, clock)


async def sync_before_pass(settings: Settings, engine: AsyncEngine, clock: Clock, stop: asyncio.Event) -> str | None:
    """With SYNC_BEFORE_PASS, bring the chats up to date from Linq; return why that failed, None if it did not.

    Raises:
        UsageError: see `linq`.
    """
    if not settings.SYNC_BEFORE_PASS:
        return None
    async with linq(settings, clock, read_pace(settings, clock)) as client:
        return await sync.sync_before_pass(
            engine, client, concurrency=settings.SHARE_CONCURRENCY, clock=clock, stop=stop
        )


def heartbeat(settings: Settings) -> Heartbeat:
    """The watchdog to ping, or none.

    Raises:
        UsageError: the variable that names the proxy is wrong.
    """
    if settings.HEARTBEAT_URL is None:
        return Heartbeat(None)
    url = settings.HEARTBEAT_URL.get_secret_value()
    return Heartbeat(url, proxy=proxy_for(url))


def receivers(settings: Settings) -> list[Receiver]:
    """Who is told of troubles; empty without NOTIFY_URL.

    Raises:
        UsageError: Apprise is not installed, or does not know a URL; or the variable that names the proxy is wrong.
    """
    return make_receivers(settings.notify_urls, proxy_for)


def whom(settings: Settings, told: Sequence[Receiver]) -> Whom:
    """Who is told, and how a message reads."""
    return Whom(
        receivers=told,
        rules=rules(settings),
        source=f"From the share worker on {socket.gethostname()}, database {db.shown(database_url(settings))}.",
        secrets=settings.secrets,
    )


def notifier(
    settings: Settings,
    engine: AsyncEngine,
    told: Whom,
    clock: Clock,
    *,
    schedule: Schedule | None = None,
    counted: Counted | None = None,
) -> Notifier:
    """What looks for troubles and tells them; without a schedule no time can be missed."""
    return Notifier(
        engine,
        told,
        schedule=schedule,
        has_webhooks=bool(settings.webhook_secrets),
        clock=clock,
        counted=counted,
    )


def database_url(settings: Settings) -> URL:
    """Where the database is; it may hold a password."""
    return db.parse_url(settings.DATABASE_URL.get_secret_value())


@asynccontextmanager
async def engine(settings: Settings, *, create: bool = False) -> AsyncIterator[AsyncEngine]:
    """The database as it is, for the time of the block; with `create`, a missing SQLite file is made.

    Raises:
        DatabaseError: in place of any error of the driver, in one line.
    """
    url = database_url(settings)
    with db.one_line_errors(url):
        async with db.opened(url, schema=settings.DATABASE_SCHEMA, create=create) as opened:
            yield opened


@asynccontextmanager
async def database(settings: Settings, *, migrates: bool = False) -> AsyncIterator[AsyncEngine]:
    """The database with the schema that this version needs; with `migrates` it is brought up to date first.

    Raises:
        SchemaError: the schema is another one.
        DatabaseError: the database cannot be used.
    """
    async with engine(settings, create=migrates) as opened:
        await db.prepare(opened, migrates=migrates)
        yield opened
