"""Notifications, to a real HTTP receiver: one message for a trouble, one when it is well, and no harm in any case."""

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import insert, select, text, update
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from structlog.testing import capture_logs

from tests.commands import one_line, share_worker
from tests.databases import sqlite_only
from tests.leaks import leak
from tests.raw_server import DONE, Script, Visit, answer, breaks_off, floods, raw_server, reset_unread, reset_when_read
from tests.scene import LINE, Scene, until
from worker import db
from worker.chats.sources import Source, note_heard
from worker.db.tables import lines, notices
from worker.notifications import outward, receivers
from worker.notifications.heartbeat import Heartbeat
from worker.notifications.message import compose
from worker.notifications.notices import LEASE
from worker.notifications.notifier import Notifier, Whom
from worker.notifications.receivers import Message, deliver, make_receivers
from worker.outcomes import PassResult, Trigger
from worker.proxy import Proxy, choose
from worker.questions.troubles import Trouble, TroubleKind
from worker.rules.eligibility import Rules
from worker.rules.hours import Hours
from worker.rules.schedule import Schedule
from worker.service.metrics import Metrics
from worker.service.scheduler import Scheduler
from worker.simulator.faults import Fault
from worker.web.server import serving_app

MORNING: Final = datetime(2026, 3, 10, 9, 30, tzinfo=UTC)
DAILY: Final = Schedule("0 10 * * *", UTC)
SOURCE: Final = "From the share worker on host-1, database postgresql://worker@db/worker."
HELLO: Final = Message(title="hello", body="a body")


@dataclass
class Post:
    """A receiver of `json://` messages that keeps them, and can misbehave."""

    url: str = ""
    status: int = 200
    hangs: bool = False
    refused: int = 0
    messages: list[dict[str, str]] = field(default_factory=list)

    @property
    def titles(self) -> list[str]:
        return [message["title"].removeprefix("share worker: ") for message in self.messages]

    @property
    def last(self) -> str:
        return self.messages[-1]["message"]

    async def __call__(self, request: Request) -> Response:
        message = await request.json()
        if self.hangs:
            await until(lambda: not self.hangs)
        if self.status == 200:
            self.messages.append(message)
        else:
            self.refused += 1
        return PlainTextResponse("planted-answer", status_code=self.status)


@asynccontextmanager
async def receiving() -> AsyncIterator[Post]:
    """A receiver on a free port; its path is a secret."""
    post = Post()
    app = Starlette(routes=[Route("/{path:path}", post.__call__, methods=["POST"])])
    async with serving_app(app, host="127.0.0.1", port=0) as base_url:
        post.url = base_url.replace("http://", "json://") + "/planted-token"
        yield post


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    async with receiving() as post:
        yield post


def directly(_url: str) -> Proxy | None:
    return None


def notifier(scene: Scene, *posts: Post, schedule: Schedule | None = None, has_webhooks: bool = False) -> Notifier:
    """What a process that was just started looks with."""
    whom = Whom(
        receivers=make_receivers([post.url for post in posts], directly),
        rules=Rules(),
        source=SOURCE,
        secrets=["planted-key-123"],
    )
    return Notifier(scene.engine, whom, schedule=schedule, has_webhooks=has_webhooks, clock=scene.clock)


async def test_a_stopped_pass_is_told_once_and_once_that_it_is_well(scene: Scene, post: Post) -> None:
    for number in range(22):
        await scene.add_chat(f"chat-{number:02}")
    fault = scene.account.add_fault(Fault(path="share", status=404, code=2001))
    stopped = await scene.one_pass()
    await notifier(scene, post, schedule=DAILY).check()
    assert post.titles == ["a pass was not completed"]
    assert post.messages[0]["type"] == "warning"
    assert "The pass was stopped: Linq refused 10 chats in a row with 404/2001" in post.last
    assert "0 shared, 10 rejected, 12 left." in post.last
    assert "Since 2026-03-10 09:30+00, next try 2026-03-10 10:00+00." in post.last
    assert f"Look: share-worker runs {stopped.run_id}" in post.last
    assert post.last.endswith(SOURCE)
    scene.clock.move(hours=1)
    await scene.one_pass()
    await notifier(scene, post).check()
    assert len(post.messages) == 1
    scene.account.remove_fault(fault)
    await scene.one_pass()
    for _ in range(2):
        await notifier(scene, post).check()
    assert post.titles[1:] == ["well again: a pass was completed"]
    assert post.messages[1]["type"] == "success"
    assert "The last completed pass: " in post.last


async def test_two_replicas_send_one_message(scene: Scene, post: Post) -> None:
    scene.account.access_denied = True
    await scene.one_pass()
    await asyncio.gather(*(notifier(scene, post).check() for _ in range(4)))
    assert post.titles == ["Linq refuses the key"]
    scene.account.access_denied = False
    await scene.one_pass()
    await asyncio.gather(*(notifier(scene, post).check() for _ in range(4)))
    assert post.titles[1:] == ["well again: Linq accepts the key"]


async def test_a_message_that_was_refused_is_sent_later_and_only_to_whom_it_is_new(scene: Scene, post: Post) -> None:
    scene.account.access_denied = True
    await scene.one_pass()
    async with receiving() as other:
        other.status = 500
        with capture_logs() as logs:
            await notifier(scene, post, other).check()
        (failed,) = (entry for entry in logs if entry["event"] == "notify.failed")
        assert (failed["receiver"], failed["reason"], failed["log_level"]) == ("2:json", "it answered 500", "warning")
        other.status = 200
        for _ in range(2):
            await notifier(scene, post, other).check()
        assert post.titles == other.titles == ["Linq refuses the key"]


@sqlite_only
async def test_a_trouble_that_was_over_before_anybody_could_be_told_is_told_with_its_end(
    scene: Scene, post: Post
) -> None:
    scene.account.access_denied, post.status = True, 500
    await scene.one_pass()
    await notifier(scene, post).check()
    scene.account.access_denied, post.status = False, 200
    await scene.one_pass()
    await notifier(scene, post).check()
    assert post.titles == ["well again: Linq accepts the key"]
    assert "Before, since 2026-03-10 09:30+00: the pass failed: the contact cards could not be read: " in post.last


@sqlite_only
async def test_a_message_that_a_dead_worker_had_claimed_is_sent_after_its_lease(scene: Scene, post: Post) -> None:
    scene.account.access_denied = True
    await scene.one_pass()
    post.status = 500
    await notifier(scene, post).check()
    async with db.write(scene.engine) as connection:
        await connection.execute(update(notices).values(claimed_by="dead", claimed_at=scene.clock.now()))
    post.status = 200
    scene.clock.move(seconds=LEASE.total_seconds())
    await notifier(scene, post).check()
    assert post.messages == []
    scene.clock.move(seconds=1)
    await notifier(scene, post).check()
    assert post.titles == ["Linq refuses the key"]


@sqlite_only
async def test_another_cause_is_another_message_and_what_is_not_known_is_not_called_well(
    scene: Scene, post: Post
) -> None:
    for number in range(12):
        await scene.add_chat(f"chat-{number:02}")
    scene.account.add_fault(Fault(path="share", status=503, times=10))
    await scene.one_pass()
    await notifier(scene, post).check()
    scene.account.access_denied = True
    scene.clock.move(minutes=1)
    await scene.one_pass()
    await notifier(scene, post).check()
    assert post.titles == ["a pass was not completed", "Linq refuses the key"]
    scene.account.access_denied = False
    await scene.one_pass()
    await notifier(scene, post).check()
    assert post.titles[2:] == ["well again: Linq accepts the key, and 1 more"]


@sqlite_only
async def test_a_key_is_not_called_accepted_while_nobody_could_ask(scene: Scene, post: Post) -> None:
    scene.account.access_denied = True
    await scene.one_pass()
    await notifier(scene, post).check()
    scene.account.access_denied = False
    fault = scene.account.add_fault(Fault(path="list_cards", status=500))
    scene.clock.move(minutes=1)
    await scene.one_pass()
    await notifier(scene, post).check()
    assert post.titles == ["Linq refuses the key", "a pass was not completed"]
    scene.account.remove_fault(fault)
    await scene.one_pass()
    await notifier(scene, post).check()
    assert post.titles[2:] == ["well again: Linq accepts the key, and 1 more"]


@sqlite_only
@pytest.mark.parametrize("told", ["by a signal", "by SHARE_HOURS"])
async def test_a_pass_that_was_asked_to_stop_is_no_trouble(scene: Scene, post: Post, told: str) -> None:
    await scene.add_chat("chat")
    if told == "by a signal":
        scene.stop.set()
    await scene.one_pass(rules=Rules(hours=Hours.parse("20:00-21:00")))
    await notifier(scene, post).check()
    assert post.messages == []


# Lines, cards, webhooks


@sqlite_only
async def test_a_refused_line_is_told_once_however_often_it_is_refused_and_without_its_number(
    scene: Scene, post: Post
) -> None:
    await scene.add_chat("one")
    await scene.add_chat("two")
    fault = scene.account.add_fault(Fault(path="share", status=403, code=2027))
    await scene.one_pass()
    await notifier(scene, post).check()
    assert post.titles == ["a line rests"]
    assert f"The line ending in {LINE[-4:]}: Linq refused it (403/2027)." in post.last
    assert "2 chats wait." in post.last
    assert "next try 2026-03-10 10:30+00" in post.last
    assert LINE not in post.last
    scene.clock.move(hours=1, minutes=5)  # its rest is over, and nobody has asked again
    await notifier(scene, post).check()
    await scene.add_chat("three")
    await scene.one_pass()
    await notifier(scene, post).check()
    assert len(post.messages) == 1
    scene.account.remove_fault(fault)
    scene.clock.move(hours=1, minutes=5)
    await scene.add_chat("four")
    await scene.one_pass()
    await notifier(scene, post).check()
    assert post.titles[1:] == ["well again: a line no longer rests"]
    assert LINE not in post.last


@sqlite_only
async def test_a_line_without_an_active_card_is_told_only_if_chats_depend_on_it(scene: Scene, post: Post) -> None:
    await scene.add_chat("chat")
    scene.add_line("+15550100002", active=False)
    await scene.one_pass()
    await notifier(scene, post).check()
    assert post.messages == []
    scene.account.deactivate_card(LINE)
    await scene.one_pass()
    await notifier(scene, post).check()
    assert post.titles == ["a line has no active contact card"]
    assert "1 chat waits." in post.last
    assert "Look: share-worker cards list" in post.last
    scene.account.activate_card(LINE)
    await scene.one_pass()
    await notifier(scene, post).check()
    assert post.titles[1:] == ["well again: a line has an active contact card"]


@sqlite_only
async def test_webhooks_are_silent_if_one_came_and_none_for_a_day(scene: Scene, post: Post) -> None:
    await notifier(scene, post, has_webhooks=True).check()
    await note_heard(scene.engine, Source.WEBHOOKS, scene.clock.now())
    scene.clock.move(hours=24)
    await notifier(scene, post, has_webhooks=True).check()
    assert post.messages == []
    scene.clock.move(minutes=1)
    await notifier(scene, post, has_webhooks=True).check()
    await notifier(scene, post).check()  # a process without LINQ_WEBHOOK_SECRET knows nothing of them
    assert post.titles == ["webhooks are silent"]
    await note_heard(scene.engine, Source.WEBHOOKS, scene.clock.now())
    await notifier(scene, post, has_webhooks=True).check()
    assert post.titles[1:] == ["well again: an event came"]


@sqlite_only
async def test_many_troubles_are_one_message(scene: Scene, post: Post) -> None:
    numbers = [f"+1555010{number:04}" for number in range(20, 32)]
    async with db.write(scene.engine) as connection:
        rows = [
            {"phone_number": number, "reputation": "CRITICAL", "checked_at": scene.clock.now()} for number in numbers
        ]
        await connection.execute(insert(lines), rows)
    for number in numbers:
        await scene.add_chat(f"chat-{number}", from_number=number)
    await notifier(scene, post).check()
    assert post.titles == ["a line rests, and 11 more"]
    assert post.last.count("its reputation is CRITICAL") == 10
    assert "And 2 more; look: share-worker status" in post.last


# What a message must not hold


def test_no_phone_number_and_no_secret_is_in_a_message_whatever_an_error_quotes() -> None:
    reason = "the pass failed: no key planted-key-123 for +14155550100 and 14155550100, trace 0123456789abcdef\nnext"
    trouble = Trouble(kind=TroubleKind.PASS, since=None, reason=reason, look="share-worker runs x")
    message = compose([trouble], [], zone=UTC, source=SOURCE, secrets=["planted-key-123"])
    assert leak(message.body, message.title) is None
    assert "4155550100" not in message.body
    assert "no key *** for +141***00 and 14***00, trace 0123456789abcdef next." in message.body


# Under `serve`


class Keeper:
    """A scheduler that tells what is in trouble."""

    def __init__(self, scene: Scene, *posts: Post) -> None:
        self.scene = scene
        self.broken: Exception | None = None
        self.metrics = Metrics(CollectorRegistry())
        self.notifier = notifier(scene, *posts, schedule=DAILY)
        self.notifier._counted = self.metrics.notified
        self.scheduler = Scheduler(
            scene.engine,
            DAILY,
            Rules(),
            make_pass=self.make_pass,
            clock=scene.clock,
            stop=scene.stop,
            metrics=self.metrics,
            heartbeat=Heartbeat(None),
            notifier=self.notifier,
        )

    async def make_pass(self, trigger: Trigger) -> PassResult:
        if self.broken is not None:
            raise self.broken
        return await self.scene.one_pass(trigger=trigger)

    async def wait(self, **span: float) -> None:
        """Let time pass, then look, and wait for what comes of it."""
        self.scene.clock.move(**span)
        await self.scheduler.turn()
        await self.scheduler.finished()
        if self.notifier._task is not None:
            await self.notifier._task

    def counted(self, result: str) -> float | None:
        return self.metrics.registry.get_sample_value("share_worker_notifications_total", {"result": result})


@sqlite_only
async def test_a_missed_time_is_told_though_a_late_pass_makes_up_for_it(scene: Scene, post: Post) -> None:
    await scene.one_pass()
    await scene.add_chat("chat")
    await Keeper(scene, post).wait(minutes=32)  # down at 10:00, and back two minutes later
    assert post.titles == ["a scheduled pass was missed", "well again: a pass was completed"]
    assert "Since 2026-03-10 10:00+00, next try 2026-03-10 10:02+00." in post.messages[0]["message"]
    assert "Look: share-worker status" in post.messages[0]["message"]


@sqlite_only
async def test_a_time_that_was_missed_on_a_day_that_is_over_is_told(scene: Scene, post: Post) -> None:
    await scene.one_pass()
    keeper = Keeper(scene, post)
    await keeper.wait(days=1, hours=15)  # 0:30 of the 12th, down all of the 11th
    assert post.titles == ["a scheduled pass was missed"]
    assert "Since 2026-03-11 10:00+00, next try 2026-03-12 10:00+00" in post.last
    await Keeper(scene, post).wait(hours=1)
    assert len(post.messages) == 1
    await keeper.wait(hours=9)
    assert post.titles[1:] == ["well again: a pass was completed"]


@sqlite_only
async def test_the_next_try_of_a_stopped_pass_is_when_it_is_resumed(scene: Scene, post: Post) -> None:
    keeper = Keeper(scene, post)
    await keeper.wait()
    scene.account.access_denied = True
    await keeper.wait(minutes=30)
    assert "next try 2026-03-10 11:00+00" in post.last
    assert keeper.counted("sent") == 1


@sqlite_only
async def test_a_message_that_was_refused_is_tried_again_after_growing_pauses(scene: Scene, post: Post) -> None:
    keeper = Keeper(scene, post)
    await keeper.wait()
    post.status = 500
    scene.account.access_denied = True
    await keeper.wait(minutes=30)
    for _ in range(59):
        await keeper.wait(minutes=1)
    assert post.refused == 1 + 5  # after 1, 2, 4, 8 and 16 minutes
    assert keeper.counted("failed") == 6
    post.status = 200
    await keeper.wait(minutes=32)
    assert post.titles == ["Linq refuses the key"]


@sqlite_only
async def test_a_pass_that_the_database_does_not_let_begin_is_told_once_and_once_that_one_was_completed(
    scene: Scene, post: Post
) -> None:
    keeper = Keeper(scene, post)
    await keeper.wait()
    async with db.write(scene.engine) as connection:
        await connection.execute(text("ALTER TABLE runs RENAME TO away"))
    for _ in range(4):
        await keeper.wait(minutes=30)
    assert post.titles == ["a pass was not completed"]
    assert "no such table: runs" in post.last
    async with db.write(scene.engine) as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO runs"))
    await keeper.wait(hours=1)
    assert post.titles[1:] == ["well again: a pass was completed"]
    async with db.read(scene.engine) as connection:
        assert (await connection.execute(select(notices))).all() == []


# Receivers that misbehave


async def trickles(visit: Visit) -> None:
    await visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
    await visit.trickle(b"x" * 9999)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (reset_unread, "ConnectionError"),
        (reset_when_read, "ConnectionError"),
        (breaks_off(b""), "ConnectionError"),
        (breaks_off(b"HTTP/1.1 2"), "ConnectionError"),
        (breaks_off(answer(404, b"<html>")), "it answered 404"),
        (breaks_off(answer(500, b'{"error": "planted')), "it answered 500"),
        (breaks_off(answer(200, b"<html>OK</html>")), None),
        (breaks_off(answer(200, b'{"ok": tr')), None),
        (breaks_off(answer(200, b"OK").replace(b"Length: 2", b"Length: 99")), None),
        (trickles, None),
        (floods, None),
    ],
)
async def test_whatever_a_receiver_does_is_one_word_for_the_log(
    monkeypatch: pytest.MonkeyPatch, script: Script, outcome: str | None
) -> None:
    monkeypatch.setattr(outward, "BODY_SECONDS", 0.2)
    async with raw_server(script) as server:
        (receiver,) = make_receivers([f"json://127.0.0.1:{server.port}/planted"], directly)
        assert await deliver(receiver, HELLO) == outcome


@sqlite_only
async def test_a_receiver_that_hangs_holds_nothing_up(
    scene: Scene, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receivers, "SECONDS", 0.2)
    (receiver,) = make_receivers([post.url], directly)
    post.hangs = True
    assert await deliver(receiver, HELLO) == "no answer within 0.2 s"
    assert await deliver(receiver, HELLO) == "the last message to it is still on its way"
    keeper = Keeper(scene, post)
    keeper.notifier.begin()
    scene.account.access_denied = True
    await scene.one_pass()
    keeper.notifier.begin()
    await keeper.notifier.finished()
    post.hangs = False
    await until(lambda: not receiver.busy.locked())


async def test_a_receiver_that_refuses_the_connection_is_told_by_the_kind_of_error(refusing_port: int) -> None:
    (receiver,) = make_receivers([f"json://127.0.0.1:{refusing_port}/planted"], directly)
    assert await deliver(receiver, HELLO) == "ConnectionError"


async def test_https_trusts_the_certificates_of_ssl_cert_file(
    monkeypatch: pytest.MonkeyPatch, certificate: tuple[Path, Path], self_signed: ssl.SSLContext
) -> None:
    async def accept(visit: Visit) -> None:
        await visit.request()
        visit.send(DONE)

    async with raw_server(accept, self_signed) as server:
        (receiver,) = make_receivers([f"jsons://127.0.0.1:{server.port}/planted"], directly)
        assert await deliver(receiver, HELLO) == "SSLError"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        assert await deliver(receiver, HELLO) is None


async def test_messages_go_through_the_proxy_and_log_in_there(monkeypatch: pytest.MonkeyPatch, post: Post) -> None:
    async def refuse(visit: Visit) -> None:
        await visit.request()
        visit.send(b"HTTP/1.1 403 Not there\r\nContent-Length: 0\r\n\r\n")

    async with raw_server(refuse) as proxy:
        address = proxy.base_url.replace("://", "://user:planted-password@")
        environment = {"HTTPS_PROXY": address, "http_proxy": address, "NO_PROXY": "inside.example"}
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # not what the worker's settings say
        urls = ["jsons://outside.example:8443/planted", "jsons://inside.example:1/planted", post.url]
        outside, inside, loopback = make_receivers(urls, lambda url: choose(url, environment))
        assert await deliver(outside, HELLO) == "ProxyError"
        assert proxy.received.startswith(b"CONNECT outside.example:8443 ")
        assert b"Proxy-Authorization: Basic dXNlcjpwbGFudGVkLXBhc3N3b3Jk\r\n" in proxy.received
        assert await deliver(inside, HELLO) == "ConnectionError"
        assert await deliver(loopback, HELLO) is None
        assert len(proxy.visits) == 1


# The commands


@sqlite_only
async def test_run_tells_too_and_no_receiver_changes_how_it_ends(
    live: Scene, settings: dict[str, str], post: Post
) -> None:
    settings = settings | {"NOTIFY_URL": post.url, "LOG_LEVEL": "debug"}
    await live.add_chat("chat")
    post.status = 500
    live.account.access_denied = True
    refused = await share_worker("run", **settings)
    assert refused.code == 1
    assert "notify.failed" in refused.err
    post.status = 200
    for _ in range(2):
        assert (await share_worker("run", **settings)).code == 1
    assert "next try with the next 'share-worker run'." in post.last
    live.account.access_denied = False
    for _ in range(2):
        assert (await share_worker("run", **settings)).code == 0
    assert post.titles == ["Linq refuses the key", "well again: Linq accepts the key"]
    assert "1 shared" in post.last
    assert "database sqlite:///" in post.last


@sqlite_only
async def test_run_tells_that_its_database_cannot_be_used(settings: dict[str, str], post: Post, tmp_path: Path) -> None:
    (tmp_path / "no.db").write_text("this is no database, but long enough to be looked at as if it were one" * 20)
    broken = settings | {"DATABASE_URL": f"sqlite:///{tmp_path}/no.db", "NOTIFY_URL": post.url}
    ended = await share_worker("run", **broken)
    assert ended.code == 1
    assert ended.err.splitlines()[-1].endswith("no.db is not a SQLite database")
    assert post.titles == ["a pass was not completed"]
    assert "no.db is not a SQLite database" in post.last


@sqlite_only
async def test_check_sends_a_test_to_each_receiver_and_says_who_accepted_it(
    live: Scene, settings: dict[str, str], post: Post
) -> None:
    await live.add_chat("chat")
    async with receiving() as other:
        urls = settings | {"NOTIFY_URL": f"{post.url}, {other.url}"}
        plain = await share_worker("check", **urls)
        assert "ok    notify    NOTIFY_URL names 1:json, 2:json; --notify sends a test\n" in plain.out
        assert post.messages == other.messages == []
        accepted = await share_worker("check", "--notify", **urls)
        assert accepted.code == 0
        assert post.titles == other.titles == ["a test"]
        other.status = 403
        refused = await share_worker("check", "--notify", "--json", **urls)
    assert refused.code == 1
    found = [(one["state"], one["found"]) for one in json.loads(refused.out)["findings"] if one["about"] == "notify"]
    assert found == [
        ("ok", "1:json: accepted the test message"),
        ("FAIL", "2:json: did not accept the test: it answered 403"),
    ]


@sqlite_only
@pytest.mark.parametrize("words", [("run",), ("serve",), ("check",)])
async def test_a_url_that_apprise_does_not_know_ends_it_with_2_and_no_url(
    settings: dict[str, str], words: tuple[str, ...]
) -> None:
    urls = "json://127.0.0.1/planted,slack://planted-and-wrong"
    line = one_line(await share_worker(*words, **settings, NOTIFY_URL=urls), 2)
    assert line.startswith("share-worker: NOTIFY_URL, URL 2 of 2, is not a URL that Apprise knows")


@sqlite_only
async def test_without_apprise_a_line_says_what_to_install(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    line = one_line(await share_worker("run", **settings, NOTIFY_URL="json://127.0.0.1/planted"), 2)
    assert "run pip install 'linq-share-worker[notify]'" in line
    assert (await share_worker("run", **settings)).code == 0


@sqlite_only
async def test_a_test_without_anybody_to_send_it_to_is_refused(settings: dict[str, str]) -> None:
    assert "NOTIFY_URL is not set" in one_line(await share_worker("check", "--notify", **settings), 2)
