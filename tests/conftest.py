"""What the tests stand on: both databases for real, the simulated Linq over real HTTP, and a clock of their own."""

import asyncio
import gc
import itertools
import logging
import os
import shutil
import socket
import sqlite3
import ssl
import subprocess
from collections.abc import AsyncIterator, Generator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import structlog
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from tests import browsers, poolers
from tests.commands import KEY
from tests.compiled import share_compiled_statements
from tests.databases import in_memory, plain, postgresql_server
from tests.leaks import PASSWORD, WatchedLogCapture, judge, leak
from tests.logging_state import logging_as_it_was
from tests.scene import Scene
from worker import db
from worker.clock import SystemClock
from worker.proxy import VARIABLES
from worker.simulator.account import Account
from worker.simulator.server import serving

START = datetime(2026, 3, 10, 9, 30, tzinfo=UTC)
OURS = ("LINQ_", "SHARE_", "LOG_", "DATABASE_", "HEARTBEAT_", "HTTP_", "SYNC_", "STATUS_")


class HandClock:
    """A clock that stands still but when it is moved, or slept on."""

    def __init__(self, now: datetime = START) -> None:
        self.time = now
        self.passed = 1000.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.passed

    def move(self, **span: float) -> None:
        """Let time pass."""
        step = timedelta(**span)
        self.time += step
        self.passed += step.total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.move(seconds=seconds)
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _no_settings_leak_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests see no setting of the machine they run on, and no .env."""
    for name in list(os.environ):
        if name.startswith(OURS) or name in VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


share_compiled_statements()

NEEDED = {"pooler": poolers.PROGRAM, "browser": browsers.PROGRAM}
"""The program that the tests with a marker need; None: it is not there."""

LONGEST_FIRST = ("test_machine.py", "test_torture.py", "test_soak.py")


def pytest_configure() -> None:
    """Let the folders of tests be in memory; the processes of xdist get theirs from the first one's."""
    if folder := in_memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", folder)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest tests: at the end, one would keep a single process busy.

    Leave out the tests behind a pooler, or in a browser, where there is none and it could not be installed.
    """
    items.sort(key=lambda item: item.path.name not in LONGEST_FIRST)
    absent = [name for name, program in NEEDED.items() if program is None]
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in absent)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    if NEEDED["pooler"] is None:
        terminalreporter.write_line("Left out: the tests behind PgBouncer (tests/test_pooler.py); install pgbouncer.")
    if NEEDED["browser"] is None:
        terminalreporter.write_line("Left out: the tests in a browser (tests/test_browser.py); install chromium.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """No secret in what any test prints or logs."""
    report = yield
    judge(report)
    return report


@pytest.fixture(autouse=True)
def _no_secret_in_an_event(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nor in what a test catches of the log, before secrets are replaced in it: that is the last line of defence."""
    monkeypatch.setattr(structlog.testing, "LogCapture", WatchedLogCapture)
    WatchedLogCapture.seen.clear()
    yield
    assert leak(*map(str, WatchedLogCapture.seen)) is None


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Give the next test the logging that it would have had without this one."""
    with logging_as_it_was():
        yield


class Complaints(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


@pytest.fixture(autouse=True, scope="module")
def _what_was_left_unclosed_is_found_here() -> Iterator[None]:
    """Objects in a circle are missed only when they are collected: not at the end, where xdist hears no more of it."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _asyncio_has_no_complaints() -> Iterator[None]:
    """A task that nobody waited for, or whose error nobody heard, is a line of asyncio's log and not a warning."""
    complaints = Complaints(logging.ERROR)
    logger = logging.getLogger("asyncio")
    logger.addHandler(complaints)
    yield
    logger.removeHandler(complaints)
    assert complaints.told == []


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[URL]:
    """A PostgreSQL server: the one that TEST_DATABASE_URL names, or one of its own for this run."""
    named = os.environ.get("TEST_DATABASE_URL")
    if named:
        yield make_url(named)
        return
    with postgresql_server() as url:
        with psycopg.connect(plain(url), autocommit=True) as connection:
            # Nobody here pulls the plug: what a process wrote outlives it without, and each test makes a database.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield url.set(password=PASSWORD)


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgresql_template(postgresql: URL) -> Iterator[URL]:
    """A migrated database; each test gets a copy of it."""
    name = f"share_worker_template_{os.getpid()}"
    with psycopg.connect(plain(postgresql), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = postgresql.set(database=name)
    asyncio.run(_migrate(url))
    yield url
    with psycopg.connect(plain(postgresql), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file; each test gets a copy of it."""
    file = tmp_path_factory.mktemp("template") / "template.db"
    asyncio.run(_migrate(make_url(f"sqlite:///{file}")))
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return file


async def _migrate(url: URL) -> None:
    async with db.opened(db.parse_url(url.render_as_string(hide_password=False)), create=True) as engine:
        await db.migrate(engine)


@pytest.fixture
def empty_postgresql(postgresql: URL) -> Iterator[str]:
    """A database without tables, on PostgreSQL."""
    name = f"share_worker_empty_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(plain(postgresql), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield plain(postgresql.set(database=name))
    with psycopg.connect(plain(postgresql), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A DATABASE_URL without tables, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("empty_postgresql"))


@pytest.fixture
def copied_postgresql(postgresql: URL, postgresql_template: URL) -> Iterator[str]:
    name = f"share_worker_test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(plain(postgresql), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {postgresql_template.database} STRATEGY FILE_COPY")
    yield plain(postgresql.set(database=name))
    with psycopg.connect(plain(postgresql), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A DATABASE_URL with the worker's tables, of each kind in turn."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("copied_postgresql"))
    file = tmp_path / "worker.db"
    shutil.copy(request.getfixturevalue("sqlite_template"), file)
    return f"sqlite:///{file}"


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with db.opened(db.parse_url(database_url)) as opened:
        yield opened


@pytest.fixture
async def scene(engine: AsyncEngine, clock: HandClock) -> AsyncIterator[Scene]:
    """A simulated account with one line and its active card, served over HTTP, and a database that knows its chats."""
    account = Account(clock=clock.now)
    async with serving(account) as base_url:
        scene = Scene(engine=engine, account=account, base_url=base_url, clock=clock)
        scene.add_line()
        yield scene


@pytest.fixture
async def live(engine: AsyncEngine) -> AsyncIterator[Scene]:
    """A scene in the time of the machine, for commands that are processes of their own."""
    account = Account()
    async with serving(account) as base_url:
        scene = Scene(engine=engine, account=account, base_url=base_url, clock=SystemClock())  # type: ignore[arg-type] # not moved
        scene.add_line()
        yield scene


@pytest.fixture
def settings(live: Scene, database_url: str) -> dict[str, str]:
    """The settings of a command that is to meet the live scene."""
    return {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": live.base_url, "DATABASE_URL": database_url}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def self_signed(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port that is taken, and on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
