"""The long-running worker as a process: it serves, is ready or says why not, makes its passes, stops as it should."""

import json
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.commands import KEY, Ended, finish, share_worker, share_worker_process, start
from tests.databases import sqlite_only
from tests.forked import Forked
from tests.leaks import leak
from tests.scene import Scene, until
from worker import db
from worker.linq.webhooks import KINDS
from worker.simulator.faults import Fault
from worker.simulator.population import populate
from worker.web.server import serving_app
from worker.web.webhooks import PATH


class Served:
    """A `share-worker serve` that runs: its log so far, and its HTTP side."""

    def __init__(self, process: Forked) -> None:
        self.process = process
        self.events: list[dict[str, object]] = []
        self.url = ""

    async def until(self, name: str, **fields: object) -> dict[str, object]:
        """Read the log until an event; return it."""
        stderr = self.process.stderr
        assert stderr is not None
        while line := (await stderr.readline()).decode():
            assert line.startswith("{"), line
            assert leak(line) is None
            event: dict[str, object] = json.loads(line)
            self.events.append(event)
            if event["event"] == name and all(event.get(field) == value for field, value in fields.items()):
                return event
        pytest.fail(f"it ended before {name}: {self.events}")

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            answer = await client.get(self.url + path)
        assert leak(answer.text, str(answer.headers)) is None
        return answer

    async def end(self, number: signal.Signals = signal.SIGTERM) -> Ended:
        self.process.send_signal(number)
        return await finish(self.process)


@pytest.fixture
async def linq(live: Scene) -> Scene:
    """The live scene, with a pass that ran yesterday."""
    await live.ran_yesterday()
    return live


@pytest.fixture
async def serve(linq: Scene, database_url: str) -> AsyncIterator[Callable[..., object]]:
    """Starts `share-worker serve`, and sees to it that it ends."""
    started: list[Forked] = []
    usual = {
        "LINQ_API_KEY": KEY,
        "LINQ_BASE_URL": linq.base_url,
        "DATABASE_URL": database_url,
        "HTTP_PORT": "0",
        "SHARE_MAX_PER_SECOND": "0",
    }

    async def begin(**settings: str) -> Served:
        process = await start("serve", **usual | settings)
        started.append(process)
        served = Served(process)
        served.url = str((await served.until("serve.listening"))["url"])
        return served

    yield begin
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.communicate()


Begin = Callable[..., object]


def earlier_today() -> dict[str, str]:
    """A schedule whose time has come already today, whatever the machine's clock says."""
    now = datetime.now(UTC)
    zone = f"Etc/GMT{now.hour - 12:+d}"  # there it is noon or so
    return {"SHARE_SCHEDULE": "0 1 * * *", "SHARE_TIMEZONE": zone}


def later_today() -> dict[str, str]:
    """A schedule whose time comes much later today, whatever the machine's clock says."""
    return earlier_today() | {"SHARE_SCHEDULE": "0 23 * * *"}


async def test_it_makes_up_for_the_time_it_was_down_and_ends_when_told(linq: Scene, serve: Begin) -> None:
    await linq.add_chat("chat")
    served: Served = await serve(**earlier_today())  # type: ignore[misc] # a coroutine of one
    await served.until("schedule.missed")
    await served.until("pass.ended", status="completed")
    assert linq.called() == ["chat"]
    ended = await served.end()
    assert ended.code == 0
    assert json.loads(ended.err.splitlines()[-1])["event"] == "serve.ended"
    again: Served = await serve(**earlier_today())  # type: ignore[misc] # a coroutine of one
    await again.until("serve.started")
    await again.end(signal.SIGINT)
    assert linq.called() == ["chat"], "known from the table, not from memory"


@sqlite_only
async def test_before_a_pass_it_reads_the_chats_if_it_is_to(linq: Scene, serve: Begin) -> None:
    chat = await linq.add_chat("known")
    linq.account.put_chat(replace(chat, id="new"))
    served: Served = await serve(SYNC_BEFORE_PASS="true", **earlier_today())  # type: ignore[misc] # a coroutine of one
    await served.until("sync.ended", complete=True, new=1)
    await served.until("pass.started")
    await served.until("pass.ended", status="completed")
    assert sorted(linq.called()) == ["known", "new"]


@sqlite_only
async def test_its_pages_say_that_it_is_alive_ready_and_what_it_counts(linq: Scene, serve: Begin) -> None:
    await linq.add_chat("chat")
    await linq.add_chat("bad")
    linq.account.add_fault(Fault(path="share", chat_id="bad", status=400, code=1005))
    served: Served = await serve(**earlier_today())  # type: ignore[misc] # a coroutine of one
    await served.until("pass.ended")
    assert (await served.get("/livez")).json() == {"alive": True}
    ready = await served.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": []})
    page = await served.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    for line in (
        'share_worker_attempts_total{code="",outcome="shared"} 1.0',
        'share_worker_attempts_total{code="1005",outcome="rejected"} 1.0',
        'share_worker_pass_seconds_count{status="completed",trigger="catch_up"} 1.0',
        "share_worker_share_seconds_count 2.0",
        'share_worker_schedule_total{event="missed"} 1.0',
        'share_worker_chats{verdict="due"} 0.0',
        'share_worker_attempts_total{code="2012",outcome="rejected"} 0.0',
        "share_worker_access_refused_total 0.0",
        "share_worker_pass_running 0.0",
    ):
        assert f"\n{line}\n" in page.text
    assert "+1555" not in page.text
    assert "chat" not in re.sub(r"share_worker_chats|[Cc]hats", "", page.text.replace("# HELP", ""))
    assert (await served.get("/admin")).status_code == 404
    async with httpx.AsyncClient() as client:
        assert (await client.post(f"{served.url}{PATH}", json={})).status_code == 404, "no secret, no webhooks"
    assert "no-store" in ready.headers["cache-control"]


@sqlite_only
async def test_it_is_not_ready_without_its_database_and_says_so(
    linq: Scene, serve: Begin, database_url: str, engine: AsyncEngine
) -> None:
    served: Served = await serve(**later_today())  # type: ignore[misc] # a coroutine of one
    await served.until("serve.started")
    async with db.write(engine) as connection:
        await connection.execute(text("UPDATE share_worker_version SET version_num = '9999'"))
    answer = await served.get("/readyz")
    assert answer.status_code == 503
    (reason,) = answer.json()["reasons"]
    assert "newer than this version's" in reason
    assert (await served.get("/livez")).status_code == 200
    assert database_url
    assert linq.called() == []


@sqlite_only
async def test_it_waits_for_a_database_that_is_not_there_yet(linq: Scene) -> None:
    settings = {
        "LINQ_API_KEY": KEY,
        "LINQ_BASE_URL": linq.base_url,
        "DATABASE_URL": "postgresql://nobody:planted@127.0.0.1:9/none",
        "HTTP_PORT": "0",
    }
    served = Served(await start("serve", **settings))
    served.url = str((await served.until("serve.listening"))["url"])
    await served.until("database.lost")
    answer = await served.get("/readyz")
    assert answer.status_code == 503
    unreachable, idle = answer.json()["reasons"]
    assert "cannot be reached" in unreachable
    assert idle == "the scheduler is not running"
    assert "planted" not in answer.text
    assert (await served.end()).code == 0


async def test_sigterm_drains_the_pass_that_runs(linq: Scene, serve: Begin) -> None:
    await linq.add_chats(f"chat-{number:02}" for number in range(60))
    linq.account.add_fault(Fault(path="share", delay_seconds=0.05))
    served: Served = await serve(**earlier_today(), SHARE_CONCURRENCY="5")  # type: ignore[misc] # a coroutine of one
    await until(lambda: len(linq.called()) >= 10)
    ended = await served.end()
    assert ended.code == 0
    outcomes = await linq.outcomes()
    assert set(outcomes.values()) == {"shared"}
    assert sorted(outcomes) == sorted(linq.called())
    assert len(outcomes) < 60


@sqlite_only
async def test_it_is_not_ready_while_it_stops_and_lives_to_the_end(linq: Scene, serve: Begin) -> None:
    await linq.add_chat("chat")
    linq.account.add_fault(Fault(path="share", delay_seconds=60, takes_effect=True))
    served: Served = await serve(**earlier_today(), SHARE_DRAIN_SECONDS="2")  # type: ignore[misc] # a coroutine of one
    await until(lambda: linq.called() == ["chat"])
    served.process.send_signal(signal.SIGTERM)
    await served.until("pass.stopping")
    answer = await served.get("/readyz")
    assert (answer.status_code, answer.json()["reasons"]) == (503, ["the worker is stopping"])
    assert (await served.get("/livez")).status_code == 200
    ended = await finish(served.process)
    assert ended.code == 0
    assert await linq.outcomes() == {"chat": "unknown"}


@sqlite_only
async def test_after_a_pass_it_removes_what_is_older_than_it_is_told_to_keep(
    linq: Scene, serve: Begin, engine: AsyncEngine
) -> None:
    await linq.add_chat("chat")
    async with db.write(engine) as connection:
        old = "INSERT INTO share_attempts (chat_id, share_day, sequence, outcome, run_id, claimed_at)"
        await connection.execute(text(f"{old} VALUES ('gone', '2020-01-01', 0, 'shared', 'r', '2020-01-01 10:00:00')"))
    served: Served = await serve(**earlier_today(), SHARE_KEEP_DAYS="30")  # type: ignore[misc] # a coroutine of one
    pruned = await served.until("ledger.pruned")
    assert (pruned["attempts"], pruned["runs"]) == (1, 0)
    assert (await served.end()).code == 0
    assert await linq.outcomes() == {"chat": "shared"}


async def test_it_takes_webhooks_while_a_pass_runs(linq: Scene, serve: Begin) -> None:
    await linq.add_chats(f"chat-{number:02}" for number in range(40))
    linq.account.add_fault(Fault(path="share", delay_seconds=0.05))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    subscription = linq.account.subscribe(f"http://127.0.0.1:{port}{PATH}", KINDS, [])
    served: Served = await serve(  # type: ignore[misc] # a coroutine of one
        **earlier_today(), HTTP_PORT=str(port), LINQ_WEBHOOK_SECRET=subscription.secret, SHARE_CONCURRENCY="2"
    )
    await until(lambda: len(linq.called()) >= 5)
    assert len(linq.called()) < 40
    order = {"kind": ["message.sent", "message.delivered"], "chat_id": "chat-39", "times": 2, "reversed": True}
    async with httpx.AsyncClient(base_url=linq.base_url, timeout=30) as client:
        told = (await client.post("/_simulator/events", json=order)).json()["deliveries"]
        assert [each["status"] for each in told] == [204] * 4
        broken = order | {"kind": "message.received", "broken": "signature"}
        assert (await client.post("/_simulator/events", json=broken)).json()["deliveries"][0]["status"] == 401
        stop = {"kind": "message.received", "chat_id": "chat-38"}
        assert (await client.post("/_simulator/events", json=stop)).json()["deliveries"][0]["status"] == 204
    async with db.read(linq.engine) as connection:
        columns = "SELECT last_outbound_at, last_inbound_at FROM chats WHERE id = "
        outbound, inbound = (await connection.execute(text(f"{columns}'chat-39'"))).one()
        assert outbound is not None
        assert inbound is None, "what was not signed says nothing"
        assert (await connection.execute(text(f"{columns}'chat-38'"))).one()[1] is not None
    await served.until("pass.ended", status="completed")
    assert sorted(linq.called()) == sorted(linq.account.chats), "each once"
    assert (await served.end()).code == 0


@sqlite_only
async def test_a_refused_key_is_a_metric(linq: Scene, serve: Begin) -> None:
    linq.account.access_denied = True
    served: Served = await serve(**earlier_today())  # type: ignore[misc] # a coroutine of one
    await served.until("schedule.resuming")
    assert "\nshare_worker_access_refused_total 1.0\n" in (await served.get("/metrics")).text


async def test_replicas_finish_what_a_killed_one_left(
    engine: AsyncEngine, serve: Begin, linq: Scene, database_url: str
) -> None:
    populate(linq.account, chats=500)
    await linq.know(*linq.account.chats.values())
    linq.account.add_fault(Fault(path="share", delay_seconds=0.5))  # so that nobody is done before all have begun
    replicas: list[Served] = [
        await serve(**earlier_today(), SHARE_CONCURRENCY="5")  # type: ignore[misc] # a coroutine of one
        for _ in range(3)
    ]
    for replica in replicas:
        await replica.until("pass.started")
    linq.account.clear_faults()
    linq.account.add_fault(Fault(path="share", delay_seconds=0.02))
    await until(lambda: len(linq.called()) >= 150)
    replicas[0].process.kill()
    for replica in replicas[1:]:
        await replica.until("pass.ended", status="completed")
    called = linq.called()
    outcomes = await linq.outcomes()
    orphans = {chat_id for chat_id, outcome in outcomes.items() if outcome == "claimed"}
    assert len(called) == len(set(called))
    assert len(orphans) <= 5, "no more than the dead one had in flight"
    assert all(outcome == "shared" for chat_id, outcome in outcomes.items() if chat_id not in orphans)
    run = await share_worker("run", "--json", LINQ_API_KEY=KEY, LINQ_BASE_URL=linq.base_url, DATABASE_URL=database_url)
    tally = json.loads(run.out)["tally"]
    assert (tally["shared"], tally["left"]) == (0, 0), "the living ones left nobody over"
    assert linq.account.requests["list_cards"] == 4, "one cards call a pass and replica, and one of this run"


@sqlite_only
async def test_a_taken_address_is_said_in_one_line(linq: Scene, serve: Begin, database_url: str) -> None:
    served: Served = await serve(**later_today())  # type: ignore[misc] # a coroutine of one
    port = served.url.rpartition(":")[2]
    ended = await share_worker_process(
        "serve", LINQ_API_KEY=KEY, LINQ_BASE_URL=linq.base_url, DATABASE_URL=database_url, HTTP_PORT=port
    )
    assert ended.code == 1
    assert ended.err.endswith(f"HTTP_HOST and HTTP_PORT: cannot listen on 127.0.0.1:{port}: Address already in use\n")


@pytest.mark.parametrize(
    ("setting", "value", "sign"),
    [
        ("SHARE_SCHEDULE", "0 25 * * *", "SHARE_SCHEDULE is '0 25 * * *'; it must be a crontab expression"),
        ("SHARE_SCHEDULE", "5/15 * * * *", "('5/15' is no minute)"),
        (
            "SHARE_HOURS",
            "11:00-11:01",
            "SHARE_SCHEDULE '30 12 * * *' leads to no pass in SHARE_HOURS 11:00-11:01",
        ),
        ("HTTP_HOST", "example", "HTTP_HOST is 'example'; it must be an IP address"),
        ("HTTP_PORT", "http", "HTTP_PORT is 'http'"),
        ("HEARTBEAT_URL", "planted-beat", "HEARTBEAT_URL must be an http"),
    ],
)
async def test_a_wrong_setting_ends_it_with_2_and_one_line(setting: str, value: str, sign: str) -> None:
    ended = await share_worker("serve", **{"LINQ_API_KEY": KEY, "SHARE_SCHEDULE": "30 12 * * *", setting: value})
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert sign in line
    assert "planted" not in line


# The heartbeat


class Watchdog:
    """A healthchecks.io of our own: remembers what it was told, and can misbehave."""

    def __init__(self) -> None:
        self.pings: list[tuple[str, str]] = []
        self.status = 200

    async def __call__(self, request: Request) -> Response:
        self.pings.append((request.url.path, (await request.body()).decode()))
        return PlainTextResponse("OK", status_code=self.status)


@pytest.fixture
async def watchdog() -> AsyncIterator[tuple[Watchdog, str]]:
    dog = Watchdog()
    app = Starlette(routes=[Route("/{path:path}", dog.__call__, methods=["POST"])])
    async with serving_app(app, host="127.0.0.1", port=0) as url:
        yield dog, f"{url}/ping/planted-uuid"


@pytest.fixture
def settings(linq: Scene, database_url: str) -> dict[str, str]:
    return {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": linq.base_url, "DATABASE_URL": database_url}


@sqlite_only
async def test_a_run_tells_the_watchdog_that_it_begins_and_ends_well(
    linq: Scene, settings: dict[str, str], watchdog: tuple[Watchdog, str]
) -> None:
    dog, url = watchdog
    await linq.add_chat("chat")
    ended = await share_worker("run", **settings, HEARTBEAT_URL=url)
    assert ended.code == 0
    assert [path for path, _ in dog.pings] == ["/ping/planted-uuid/start", "/ping/planted-uuid"]
    assert dog.pings[1][1].endswith(" completed")
    assert "planted-uuid" not in ended.err + ended.out


@sqlite_only
async def test_a_run_tells_the_watchdog_that_it_ended_badly(
    linq: Scene, settings: dict[str, str], watchdog: tuple[Watchdog, str]
) -> None:
    dog, url = watchdog
    linq.account.access_denied = True
    assert (await share_worker("run", **settings, HEARTBEAT_URL=url)).code == 1
    assert [path for path, _ in dog.pings] == ["/ping/planted-uuid/start", "/ping/planted-uuid/fail"]
    assert "403/2005" in dog.pings[1][1]


@sqlite_only
async def test_serve_tells_the_watchdog_too(
    linq: Scene, serve: Begin, watchdog: tuple[Watchdog, str], tmp_path: Path
) -> None:
    dog, url = watchdog
    await linq.add_chat("chat")
    secret = tmp_path / "heartbeat"
    secret.write_text(url + "\n")
    served: Served = await serve(**earlier_today(), HEARTBEAT_URL_FILE=str(secret))  # type: ignore[misc] # a coroutine of one
    await until(lambda: len(dog.pings) == 2)
    assert [path for path, _ in dog.pings] == ["/ping/planted-uuid/start", "/ping/planted-uuid"]
    ended = await served.end()
    assert "planted-uuid" not in ended.err


@sqlite_only
@pytest.mark.parametrize("trouble", ["refused", "status"])
async def test_a_watchdog_in_trouble_harms_no_pass(
    linq: Scene, settings: dict[str, str], watchdog: tuple[Watchdog, str], trouble: str
) -> None:
    dog, url = watchdog
    dog.status = 500
    await linq.add_chat("chat")
    where = "http://127.0.0.1:9/planted-uuid" if trouble == "refused" else url
    ended = await share_worker("run", **settings, HEARTBEAT_URL=where)
    assert ended.code == 0
    assert linq.called() == ["chat"]
    failed = [json.loads(line) for line in ended.err.splitlines() if "heartbeat.failed" in line]
    assert [event["signal"] for event in failed] == ["start", "success"]
    assert "planted-uuid" not in ended.err
