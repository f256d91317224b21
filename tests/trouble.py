"""The database as a worker reaches it: lost, cut, locked and given back, for real."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import psycopg
from sqlalchemy import URL, make_url

from tests.judge import NAME
from tests.relay import Connect, Relay, relaying

OTHERS = (
    "FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    f" AND pid <> pg_backend_pid() AND application_name <> '{NAME}'"
)
"""The workers' sessions; they have no name between two transactions."""


class Reach(Protocol):
    """The way from a worker to its database."""

    url: str
    """What the worker is given as DATABASE_URL."""

    async def lose(self) -> None:
        """Let no work be done any more, until `give_back`."""
        ...

    async def give_back(self) -> None:
        """Let work be done again; does no harm where nothing was lost."""
        ...

    def cut(self) -> None:
        """End all sessions, as a restart does."""
        ...

    def lose_word_of_commit(self) -> None:
        """Let the next commit come through, but not the word of it."""
        ...

    async def quiet(self) -> None:
        """Wait until the database has noticed the end of every dead worker."""
        ...


class Near:
    """A SQLite file: another program holds its lock. There are no sessions to cut, and no words to lose."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._intruder: sqlite3.Connection | None = None
        self._taking: asyncio.Task[sqlite3.Cursor] | None = None

    async def lose(self) -> None:
        file = make_url(self.url).database
        assert file is not None
        if self._intruder is None:
            self._intruder = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
            # A worker may hold the lock at the moment.
            self._taking = asyncio.create_task(asyncio.to_thread(self._intruder.execute, "BEGIN IMMEDIATE"))
            await asyncio.wait([self._taking])

    async def give_back(self) -> None:
        if self._taking is not None:
            await asyncio.gather(self._taking, return_exceptions=True)
            self._taking = None
        if self._intruder is not None:
            self._intruder.close()
            self._intruder = None

    def cut(self) -> None:
        pass

    def lose_word_of_commit(self) -> None:
        pass

    async def quiet(self) -> None:
        pass


class Far:
    """A PostgreSQL behind a relay."""

    def __init__(self, near: str, relay: Relay) -> None:
        self._near = near
        self._relay = relay
        self._lost = False
        through = make_url(near).set(host="127.0.0.1", port=relay.port, query={"sslmode": "disable"})
        self.url = through.render_as_string(hide_password=False)

    async def lose(self) -> None:
        self._lost = True
        await self._relay.refuse()

    async def give_back(self) -> None:
        if self._lost:
            self._lost = False
            await self._relay.accept()

    def cut(self) -> None:
        self._ask(f"SELECT pg_terminate_backend(pid) {OTHERS}")

    def lose_word_of_commit(self) -> None:
        self._relay.swallow_answer_to = b"COMMIT"

    async def quiet(self) -> None:
        self._relay.swallow_answer_to = None
        while self._ask(f"SELECT 1 {OTHERS}"):  # noqa: ASYNC110 -- a server that ends has no event to wait for
            await asyncio.sleep(0.002)

    def _ask(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self._near, autocommit=True) as connection:
            return connection.execute(statement).fetchall()


@asynccontextmanager
async def reaching(database_url: str) -> AsyncIterator[Reach]:
    """The way to a database, for the time of the block."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        near = Near(database_url)
        try:
            yield near
        finally:
            await near.give_back()
        return
    async with relaying(connecting(url)) as relay:
        yield Far(database_url, relay)


def connecting(url: URL) -> Connect:
    """How a relay gets to a PostgreSQL server: over its socket's folder, where the URL names one."""
    folder, port = url.query.get("host"), url.port or 5432
    if folder:
        return lambda: asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
    return lambda: asyncio.open_connection(url.host, port)
