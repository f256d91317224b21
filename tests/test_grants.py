"""The roles of docs/database.md, made with its SQL as it stands: what each may do, and what is said if not."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import psycopg
import pytest
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from tests.commands import KEY, ROOT, Ended, finish, one_line, share_worker, start
from tests.databases import plain
from tests.later import zone_where_it_is_noon
from tests.scene import Scene, until
from tests.test_docs import section
from worker import db
from worker.clock import SystemClock
from worker.errors import DatabaseError
from worker.outcomes import RunStatus
from worker.questions.privileges import PASS_NEEDS
from worker.sharing.limits import Limits
from worker.simulator.account import Account
from worker.simulator.faults import Fault
from worker.simulator.server import serving

ROLES, IN_A_SCHEMA, IN_PUBLIC, GRANTS = re.findall(
    r"```sql\n(.*?)```",
    section("Roles on PostgreSQL", (ROOT / "docs" / "database.md").read_text()),
    re.DOTALL,
)
PASSWORDS = dict(re.findall(r"CREATE ROLE (\w+) LOGIN PASSWORD '(.+)'", ROLES))

ZONE = zone_where_it_is_noon()


@dataclass(frozen=True)
class Roles:
    """A database with the three roles, and the tables in a schema of their own or in `public`."""

    admin: psycopg.Connection
    url: URL
    schema: str | None

    def url_of(self, role: str) -> str:
        """A DATABASE_URL as one of the roles."""
        return plain(self.url.set(username=role, password=PASSWORDS[role]))

    def settings(self, role: str) -> dict[str, str]:
        """The settings that say where the tables are."""
        schema = {"DATABASE_SCHEMA": self.schema} if self.schema else {}
        return {"DATABASE_URL": self.url_of(role), "LOG_LEVEL": "error"} | schema

    def table(self, name: str) -> str:
        """A table as SQL names it."""
        return f"{self.schema or 'public'}.{name}"


@pytest.fixture
def of_the_server(postgresql: URL, empty_postgresql: str) -> Iterator[psycopg.Connection]:
    """The administrator; the roles are the server's, so one test at a time has them."""
    with (
        psycopg.connect(plain(postgresql), autocommit=True) as lock,
        psycopg.connect(empty_postgresql, autocommit=True) as admin,
    ):
        lock.execute("SELECT pg_advisory_lock(hashtext('roles of a test'))")
        yield admin
        for role in PASSWORDS:
            admin.execute(f"DROP OWNED BY {role} CASCADE")
            admin.execute(f"DROP ROLE {role}")


@pytest.fixture(params=["sharing", None], ids=["schema", "public"])
async def roles(request: pytest.FixtureRequest, of_the_server: psycopg.Connection, empty_postgresql: str) -> Roles:
    """The document's SQL, step by step."""
    roles = Roles(of_the_server, make_url(empty_postgresql), request.param)
    roles.admin.execute(ROLES)
    roles.admin.execute(IN_A_SCHEMA if roles.schema else IN_PUBLIC)
    assert (await share_worker("migrate", **roles.settings("share_owner"))).code == 0
    with psycopg.connect(roles.url_of("share_owner"), autocommit=True) as owner:
        owner.execute(GRANTS if roles.schema else GRANTS.replace("sharing.", "public."))
    roles.admin.execute(f"SET search_path = {roles.schema or 'public'}")
    return roles


in_a_schema = pytest.mark.parametrize("roles", ["sharing"], indirect=True)


@pytest.fixture
async def engine(roles: Roles) -> AsyncIterator[AsyncEngine]:
    """The database as the worker's role."""
    async with db.opened(db.parse_url(roles.url_of("share_worker")), schema=roles.schema) as opened:
        yield opened


@pytest.fixture
async def live(roles: Roles, engine: AsyncEngine) -> AsyncIterator[Scene]:
    """A chat that is due, one that may be shared with again by a rerun, and a ledger with an old day to prune."""
    account = Account()
    async with serving(account) as base_url:
        scene = Scene(engine=engine, account=account, base_url=base_url, clock=SystemClock())  # type: ignore[arg-type] # not moved
        scene.add_line()
        await scene.add_chat("due")
        await scene.add_chat("again")
        roles.admin.execute(
            "INSERT INTO runs (id, trigger, share_day, worker, started_at, status)"
            " SELECT 'old' || day, 'schedule', date '2025-03-01' + day, 'w', date '2025-03-01' + day, 'failed'"
            " FROM generate_series(1, 3) AS day"
        )
        roles.admin.execute(
            "INSERT INTO share_attempts (chat_id, share_day, sequence, outcome, run_id, claimed_at) VALUES"
            " ('again', '2025-03-01', 0, 'shared', 'old', '2025-03-01'),"
            " ('again', (now() AT TIME ZONE %s)::date, 0, 'unknown', 'earlier', now() - interval '10 minutes')",
            [ZONE],
        )
        yield scene


def settings_of(roles: Roles, live: Scene, role: str) -> dict[str, str]:
    return roles.settings(role) | {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": live.base_url, "SHARE_TIMEZONE": ZONE}


def grants(ended: Ended) -> list[list[str]]:
    """What `check` says of grants: each line's state and text."""
    lines = [line.split(maxsplit=2) for line in ended.out.splitlines()]
    return [[line[0], line[2]] for line in lines if line[1:2] == ["grants"]]


FOR_A_WORKER = (
    ("check",),
    ("run", "--no-migrate"),
    ("run",),
    ("rerun", "--chat", "again", "--force", "--reason", "a test", "--yes"),
    ("pause", "again"),
    ("resume", "again"),
    ("prune", "--before", "2026-01-01", "--yes"),
    ("cards", "list"),
    ("chats", "sync", "--no-migrate"),
)
FOR_A_READER = (
    ("status",),
    ("explain", "again"),
    ("attempts",),
    ("runs",),
    ("chats", "list"),
    ("chats", "export"),
)


async def test_the_documented_sql_removes_every_table(roles: Roles) -> None:
    page = (ROOT / "docs" / "database.md").read_text()
    of_a_schema, of_public = re.findall(r"```sql\n(.*?)```", section("Remove the tables", page), re.DOTALL)
    roles.admin.execute(of_a_schema if roles.schema else of_public)
    left = "SELECT tablename FROM pg_tables WHERE schemaname IN ('sharing', 'public')"
    assert roles.admin.execute(left).fetchall() == []


async def test_a_worker_that_may_create_nothing_can_do_all_its_work(roles: Roles, live: Scene) -> None:
    settings = settings_of(roles, live, "share_worker")
    for words in (*FOR_A_WORKER, *FOR_A_READER):
        ended = await share_worker(*words, **settings)
        assert (ended.code, ended.err) == (0, ""), (words, ended)
    assert live.called() == ["due", "again"], "by the first pass, and by the rerun"
    left = roles.admin.execute("SELECT share_day FROM share_attempts WHERE run_id = 'old'").fetchall()
    assert left == []
    with psycopg.connect(roles.url_of("share_worker")) as worker, pytest.raises(psycopg.errors.InsufficientPrivilege):
        worker.execute(f"CREATE TABLE {roles.table('mine')} ()")


@in_a_schema
async def test_a_worker_that_may_create_nothing_serves(roles: Roles, live: Scene) -> None:
    settings = settings_of(roles, live, "share_worker") | {"LOG_LEVEL": "info", "LOG_FORMAT": "json", "HTTP_PORT": "0"}
    process = await start("serve", "--no-migrate", **settings, SHARE_SCHEDULE="0 0 * * *")
    assert process.stderr is not None
    seen: list[dict[str, object]] = []
    while not seen or seen[-1]["event"] != "pass.ended":
        seen.append(json.loads(await asyncio.wait_for(process.stderr.readline(), 30)))
    process.send_signal(signal.SIGTERM)
    assert (await finish(process)).code == 0
    assert seen[-1]["status"] == "completed"
    assert live.called() == ["due"]


async def test_a_reader_can_look_and_is_told_that_it_may_only_read(roles: Roles, live: Scene) -> None:
    settings = settings_of(roles, live, "share_reader")
    for words in FOR_A_READER:
        ended = await share_worker(*words, **settings)
        assert (ended.code, ended.err) == (0, ""), (words, ended)
    ended = await share_worker("check", **settings)
    assert ended.code == 1
    ((state, found),) = grants(ended)
    assert state == "FAIL"
    assert found.startswith("share_reader may only read: it can look, but a pass fails. For a role that makes passes: ")
    assert "1 of 2 are due now; 1 already_today" in ended.out
    assert ended.out.endswith("\n1 of these need attention.\n")
    line = one_line(await share_worker("run", **settings), 1)
    assert "refuses: permission denied for table share_attempts; 'share-worker check' names missing grants" in line
    roles.admin.execute(found.partition("passes: ")[2])
    assert grants(await share_worker("check", **settings)) == [
        [
            "note",
            f"share_reader lacks DELETE on {table}, which only 'prune' and SHARE_KEEP_DAYS need: "
            f"GRANT DELETE ON {roles.table(table)} TO share_reader",
        ]
        for table in ("share_attempts", "runs")
    ] + [
        [
            "note",
            f"share_reader lacks {missing} on {table}, which only webhooks and commands that add chats need: "
            f"GRANT {missing} ON {roles.table(table)} TO share_reader",
        ]
        for table, missing in (
            ("chats", "INSERT"),
            ("sent_messages", "INSERT, UPDATE, DELETE"),
            ("sources", "INSERT, UPDATE"),
        )
    ] + [
        [
            "note",
            "share_reader lacks INSERT, UPDATE, DELETE on notices, which only notifications (NOTIFY_URL) need: "
            f"GRANT INSERT, UPDATE, DELETE ON {roles.table('notices')} TO share_reader",
        ]
    ]
    assert (await share_worker("run", **settings)).code == 0


@in_a_schema
async def test_check_names_each_missing_grant_with_the_sql_that_gives_it(roles: Roles, live: Scene) -> None:
    settings = settings_of(roles, live, "share_worker")
    roles.admin.execute("REVOKE INSERT, UPDATE ON sharing.share_attempts FROM share_worker")
    roles.admin.execute("REVOKE ALL ON sharing.runs FROM share_worker")
    roles.admin.execute("REVOKE USAGE ON SCHEMA sharing FROM share_worker")
    ended = await share_worker("check", **settings)
    assert ended.code == 1
    assert "permission denied" not in ended.out
    found = grants(ended)
    assert found == [
        ["FAIL", "share_worker may not use the schema sharing: GRANT USAGE ON SCHEMA sharing TO share_worker"],
        ["FAIL", "share_worker lacks INSERT, UPDATE on share_attempts, so a pass fails: "
         "GRANT INSERT, UPDATE ON sharing.share_attempts TO share_worker"],
        ["FAIL", "share_worker lacks SELECT, INSERT, UPDATE on runs, so a pass fails: "
         "GRANT SELECT, INSERT, UPDATE ON sharing.runs TO share_worker"],
        ["note", "share_worker lacks DELETE on runs, which only 'prune' and SHARE_KEEP_DAYS need: "
         "GRANT DELETE ON sharing.runs TO share_worker"],
    ]  # fmt: skip
    document = json.loads((await share_worker("check", "--json", **settings)).out)
    assert [finding["found"] for finding in document["findings"] if finding["about"] == "grants"] == [
        text for _, text in found
    ]
    line = one_line(await share_worker("run", "--no-migrate", **settings), 1)
    assert "refuses: permission denied for schema sharing; 'share-worker check' names missing grants" in line
    for _, text in found:
        roles.admin.execute(text.rpartition(": ")[2])
    assert (await share_worker("check", **settings)).out.endswith("All is well.\n")


@in_a_schema
async def test_check_finds_the_schema_that_only_the_search_path_names(roles: Roles, live: Scene) -> None:
    settings = settings_of(roles, live, "share_worker")
    del settings["DATABASE_SCHEMA"]
    roles.admin.execute("ALTER ROLE share_worker SET search_path = sharing, public")
    roles.admin.execute("CREATE TABLE public.runs (mine text)")
    roles.admin.execute("REVOKE USAGE ON SCHEMA sharing FROM share_worker")
    ended = await share_worker("check", **settings)
    assert grants(ended) == [
        ["FAIL", "share_worker may not use the schema sharing: GRANT USAGE ON SCHEMA sharing TO share_worker"]
    ]
    roles.admin.execute("GRANT USAGE ON SCHEMA sharing TO share_worker")
    assert (await share_worker("check", **settings)).code == 0


@in_a_schema
async def test_a_role_whose_transactions_are_read_only_is_told_so(roles: Roles, live: Scene) -> None:
    settings = settings_of(roles, live, "share_worker")
    roles.admin.execute("ALTER ROLE share_worker SET default_transaction_read_only = on")
    ended = await share_worker("check", **settings)
    assert ended.code == 1
    ((state, found),) = grants(ended)
    assert (state, found.startswith("share_worker may only read, since its transactions are read-only; ")) == (
        "FAIL",
        True,
    )
    roles.admin.execute(found.rpartition(": ")[2])
    assert grants(await share_worker("check", **settings)) == []


@pytest.mark.parametrize("revision", ["0002", None])
async def test_a_schema_that_the_worker_may_not_change_is_left_to_another_role(
    roles: Roles, live: Scene, revision: str | None
) -> None:
    if revision is None:
        roles.admin.execute(f"DROP TABLE {', '.join(PASS_NEEDS)}")
    else:
        roles.admin.execute("UPDATE share_worker_version SET version_num = %s", [revision])
    settings = settings_of(roles, live, "share_worker")
    line = one_line(await share_worker("run", **settings), 1)
    assert f"is at {revision}, older" in line if revision else "has no tables of the worker's yet" in line
    assert "run 'share-worker migrate' as a role that may change it (" in line
    assert live.called() == []


# What a pass needs


@pytest.fixture
async def scene(scene: Scene) -> Scene:
    """The usual scene, in this database, with chats that are due."""
    await scene.add_chats(f"chat-{number:02}" for number in range(12))
    return scene


def grant_only_what_a_pass_needs(roles: Roles, *, but: tuple[str, str] | None = None) -> None:
    roles.admin.execute("REVOKE ALL ON ALL TABLES IN SCHEMA sharing FROM share_worker")
    for table, privileges in PASS_NEEDS.items():
        for privilege in privileges:
            if (table, privilege) != but:
                roles.admin.execute(f"GRANT {privilege} ON {table} TO share_worker")


async def failure(scene: Scene) -> str | None:
    """Why a pass could not be made: in its result, or as the command would say it; None: it was completed."""
    try:
        with db.one_line_errors(scene.engine.url):
            await db.require_current_schema(scene.engine)
            return (await scene.one_pass()).detail
    except DatabaseError as error:
        return str(error)


A_LINE_THAT_IS_GONE = """
    INSERT INTO contact_cards (phone_number, is_active, checked_at) VALUES ('+15550100099', true, now())
    ON CONFLICT DO NOTHING;
    INSERT INTO lines (phone_number, checked_at) VALUES ('+15550100099', now()) ON CONFLICT DO NOTHING
"""


@in_a_schema
async def test_a_pass_needs_each_grant_that_check_asks_for_and_no_other(roles: Roles, scene: Scene) -> None:
    for table, privileges in PASS_NEEDS.items():
        for privilege in privileges:
            roles.admin.execute(A_LINE_THAT_IS_GONE)
            grant_only_what_a_pass_needs(roles, but=(table, privilege))
            told = await failure(scene)
            assert told is not None, f"{privilege} on {table} is not needed"
            assert told.isprintable()
            assert f"permission denied for table {table}; " in told
            assert scene.called() == []
    roles.admin.execute(A_LINE_THAT_IS_GONE)
    grant_only_what_a_pass_needs(roles)
    assert await failure(scene) is None
    assert len(scene.called()) == 12


@in_a_schema
async def test_a_grant_that_is_taken_away_in_the_middle_loses_no_answer_and_makes_no_second_share(
    roles: Roles, scene: Scene
) -> None:
    scene.account.add_fault(Fault(path="share", after=4, delay_seconds=0.3))
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            going = group.create_task(scene.one_pass(limits=Limits(per_second=0, concurrency=4)))
            await until(lambda: len(scene.called()) >= 5)
            roles.admin.execute("REVOKE UPDATE ON sharing.share_attempts FROM share_worker")
    result = going.result()
    assert result.status is RunStatus.FAILED
    assert result.detail is not None
    assert result.detail.endswith(
        "permission denied for table share_attempts; 'share-worker check' names missing grants"
    )
    unrecorded = {line["chat_id"] for line in logs if line["event"] == "share.unrecorded"}
    outcomes = await scene.outcomes()
    assert unrecorded == {chat_id for chat_id, outcome in outcomes.items() if outcome == "claimed"} != set()
    roles.admin.execute("GRANT UPDATE ON sharing.share_attempts TO share_worker")
    scene.account.clear_faults()
    scene.clock.move(minutes=20)
    assert (await scene.one_pass()).status is RunStatus.COMPLETED
    assert sorted(scene.called()) == [f"chat-{number:02}" for number in range(12)]
    outcomes = await scene.outcomes()
    assert {chat_id for chat_id, outcome in outcomes.items() if outcome == "unknown"} == unrecorded
