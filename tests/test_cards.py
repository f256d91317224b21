"""`cards list`, `cards create` and `cards update`: Linq's rules for cards, made plain."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from sqlalchemy import text

from tests.commands import KEY, finish, one_line, share_worker, start
from tests.conftest import HandClock
from tests.databases import sqlite_only
from tests.scene import LINE, Scene
from worker import db
from worker.account import Card
from worker.errors import UsageError
from worker.linq import card_writer
from worker.linq.card_writer import CardWriter, Fields, Written
from worker.linq.client import Linq
from worker.linq.phone_numbers import e164
from worker.simulator.account import Account, Line
from worker.simulator.faults import Fault
from worker.simulator.server import serving

OTHER = "+15550100002"
WANTED = Fields(phone_number=LINE, first_name="Ann", last_name="O'Hara")
CREATE = f"share-worker cards create {LINE} --first-name Ann --last-name 'O'\"'\"'Hara'"
UPDATE = CREATE.replace("create", "update")


# phone numbers and the other fields, before any call


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("+15550100001", "+15550100001"),
        ("+1 (415) 555-0100", "+14155550100"),
        ("+1 415.555.0100", "+14155550100"),
        ("+1\u2011415\u00a0555\u20130100", "+14155550100"),
        ("+49 151 23456789", "+4915123456789"),
        ("+44 (0)20 7946 0018", "+442079460018"),
        ("+39 06 123456", "+3906123456"),
    ],
)
def test_a_number_is_understood_however_it_is_spaced(typed: str, meant: str) -> None:
    assert e164(typed) == meant


@pytest.mark.parametrize(
    ("typed", "sign"),
    [
        ("14155550100", "has no country code; did you mean +14155550100?"),
        ("(415) 555-0100", "has no country code; begin it with + and the code"),
        ("0151 23456789", "has no country code; begin it with + and the code"),
        ("+1 415 555 010", "cannot be a phone number: it is too short"),
        ("+1 415 555 01000", "cannot be a phone number: it is too long"),
        ("+999 123456789", "cannot be a phone number: no country has its code"),
        ("+1", "cannot be a phone number: it is too short"),
        ("+" + "1" * 40, "cannot be a phone number: it is too long"),
        ("+1 800 FLOWERS", "is not a phone number; write it as + and digits"),
        ("+1 415 555 0100 x5", "is not a phone number"),
        ("+١٤١٥٥٥٥٠١٠٠", "is not a phone number"),
        ("", "is not a phone number"),
        ("+", "is not a phone number"),
    ],
)
def test_what_cannot_be_a_number_is_refused_with_what_to_do(typed: str, sign: str) -> None:
    with pytest.raises(UsageError, match="^" + repr(typed).replace("(", r"\(").replace(")", r"\)").replace("+", r"\+")):
        e164(typed)
    with pytest.raises(UsageError) as refused:
        e164(typed)
    assert sign in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://x.example/a.png",
        "https://",
        "https:///a.png",
        "x.example/a.png",
        "https://x:99999/a",
        "https://x/a b",
        "",
    ],
)
def test_an_image_must_be_an_https_url_with_a_host(url: str) -> None:
    with pytest.raises(UsageError, match="but must be an https:// URL with a host"):
        card_writer.fields(LINE, first_name="Ann", image_url=url)


@pytest.mark.parametrize(("first", "last"), [("", None), (" \t", None), ("An\nn", None), ("Ann", "\x1b[31m")])
def test_no_card_is_asked_for_with_an_empty_or_broken_name(first: str, last: str | None) -> None:
    with pytest.raises(UsageError, match="name is"):
        card_writer.fields(LINE, first_name=first, last_name=last)


# Linq's answers, by a clock of the test's own


@dataclass
class Desk:
    """Someone who writes cards into a simulated account."""

    account: Account
    base_url: str
    clock: HandClock
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    said: list[str] = field(default_factory=list)
    key: str = KEY

    async def write(self, verb: card_writer.Verb, wanted: Fields = WANTED) -> Written:
        async with Linq(self.key, base_url=self.base_url, clock=self.clock, timeout=5) as linq:
            writer = CardWriter(linq=linq, clock=self.clock, stop=self.stop, say=self.said.append)
            return await (writer.create(wanted) if verb == "create" else writer.update(wanted))

    def writes(self) -> int:
        return self.account.requests["create_card"] + self.account.requests["update_card"]


@pytest.fixture
async def desk(clock: HandClock) -> AsyncIterator[Desk]:
    account = Account(clock=clock.now)
    account.put_line(Line(LINE))
    async with serving(account) as base_url:
        yield Desk(account, base_url, clock)


async def test_a_card_is_created_and_active_at_once(desk: Desk) -> None:
    written = await desk.write("create")
    assert (written.problem, desk.said, desk.clock.slept) == (None, [], [])
    assert written.card is not None
    assert (written.card.first_name, written.card.last_name, written.card.is_active) == ("Ann", "O'Hara", True)


async def test_it_waits_until_the_card_is_active(desk: Desk) -> None:
    desk.account.activation_delay = 7
    written = await desk.write("create")
    assert written.problem is None
    assert written.card is not None
    assert written.card.is_active
    assert desk.clock.slept == [2, 2, 2, 2]
    assert desk.said == ["Linq has the card, and is applying it; waiting up to 60 s until it is active"]


async def test_it_does_not_wait_for_ever(desk: Desk) -> None:
    desk.account.activation_delay = 10_000
    written = await desk.write("create")
    assert written.problem == "Linq has the card, but it is not active after 60 s (Linq does not say why)"
    assert written.advice == "look again with: share-worker cards list"
    assert sum(desk.clock.slept) == 60
    assert desk.writes() == 1


async def test_looks_that_fail_do_not_end_the_wait(desk: Desk) -> None:
    desk.account.activation_delay = 7
    desk.account.add_fault(Fault(path="list_cards", status=500, times=5))
    written = await desk.write("create")
    assert written.problem is None
    desk.account.deactivate_card(LINE)
    desk.account.activation_delay = 10_000
    desk.account.add_fault(Fault(path="list_cards", status=500, message="planted"))
    written = await desk.write("create")
    assert written.problem is not None
    assert "not active after 60 s (the last look at it failed: 500/3006: planted" in written.problem


async def test_told_to_stop_it_ends_the_wait(desk: Desk) -> None:
    desk.account.activation_delay = 10_000
    desk.stop.set()
    written = await desk.write("create")
    assert written.problem == "Linq has the card, but it was not active yet when the wait was ended"
    assert desk.account.requests["list_cards"] <= 1


async def test_an_image_is_removed_and_one_that_linq_keeps_is_told(desk: Desk) -> None:
    desk.account.put_card(LINE, "Ann", image_url="https://x.example/a.png")
    bare = Fields(phone_number=LINE, removes_image=True)
    written = await desk.write("update", bare)
    assert written == Written(
        card=Card(phone_number=LINE, first_name="Ann", last_name=None, image_url=None, is_active=True)
    )
    kept = {"phone_number": LINE, "first_name": "Ann", "image_url": "https://x.example/a.png", "is_active": True}
    desk.account.add_fault(Fault(path="update_card", status=200, body=json.dumps(kept)))
    written = await desk.write("update", bare)
    assert written.problem == "Linq accepted the update, but the card still has its image"
    with pytest.raises(UsageError, match="--image-url sets the image and --no-image removes it"):
        card_writer.fields(LINE, image_url="https://x.example/a.png", removes_image=True)


async def test_where_a_card_is_active_it_offers_the_update(desk: Desk) -> None:
    desk.account.put_card(LINE, "Acme")
    written = await desk.write("create")
    assert written.problem is not None
    assert written.problem.startswith("the line has an active card already (409/2014: ")
    assert written.advice == f"update it instead: {UPDATE}"
    assert written.card is not None
    assert (await desk.write("update")).problem is None, "and that is right"


async def test_where_none_is_active_it_offers_the_creation_with_what_the_card_holds(desk: Desk) -> None:
    bare = Fields(phone_number=LINE, last_name="O'Hara")
    written = await desk.write("update", bare)
    assert written.problem is not None
    assert written.problem.startswith("the line has no active card (404/2012: ")
    assert written.advice == f"create it instead: {CREATE.replace('Ann', 'NAME')}"
    desk.account.put_card(LINE, "Ann", "Old", "https://x.example/a.png", is_active=False)
    written = await desk.write("update", bare)
    assert written.problem is not None
    assert "has a card that is not active, and Linq updates only an active one" in written.problem
    assert written.advice == f"create it instead: {CREATE} --image-url https://x.example/a.png"
    assert (await desk.write("create")).problem is None, "and that is right"


@pytest.mark.parametrize("verb", ["create", "update"])
async def test_what_did_not_complete_is_tried_again_within_linqs_limit(desk: Desk, verb: card_writer.Verb) -> None:
    if verb == "update":
        desk.account.put_card(LINE, "Acme")
    desk.account.add_fault(Fault(path=f"{verb}_card", status=500, code=2022, times=2))
    written = await desk.write(verb)
    assert written.problem is None
    assert written.card is not None
    assert written.card.first_name == "Ann"
    assert desk.clock.slept == [2, 10]
    assert desk.writes() == 3
    assert [line.rpartition("; ")[2] for line in desk.said] == ["trying again in 2 s", "trying again in 10 s"]


async def test_a_fourth_try_is_left_to_the_admin_and_to_the_next_ten_minutes(desk: Desk) -> None:
    desk.account.add_fault(Fault(path="create_card", status=500, code=2022))
    written = await desk.write("create")
    assert desk.writes() == 3
    assert written.problem is not None
    assert written.problem.startswith("Linq did not complete it (500/2022: ")
    assert "the card is not active now, so the line's chats are not shared with" in written.problem
    assert written.advice == f"try again in 10 min: {CREATE}"
    desk.account.clear_faults()
    limited = await desk.write("create")
    assert limited.problem is not None
    assert limited.problem.startswith("Linq takes three creations and updates a line in ten minutes (429/1007: ")
    assert limited.advice == f"try again in 10 min: {CREATE}"
    desk.clock.move(minutes=9)
    soon = await desk.write("create")
    assert soon.advice == f"try again in 48 s: {CREATE}", "two pauses of 12 s have passed already"
    desk.clock.move(seconds=48)
    assert (await desk.write("create")).problem is None


async def test_stopped_between_two_tries_it_says_what_to_do(desk: Desk) -> None:
    desk.account.add_fault(Fault(path="create_card", status=500, code=2022))
    desk.stop.set()
    written = await desk.write("create")
    assert desk.writes() == 1
    assert written.problem is not None
    assert written.problem.startswith("it was ended before another try (500/2022")
    assert written.advice == CREATE


@pytest.mark.parametrize(("told", "wait"), [(90, "90 s"), (181, "4 min"), (None, "10 min")])
async def test_an_update_that_linq_could_not_pass_on_leaves_the_card_inactive(
    desk: Desk, told: float | None, wait: str
) -> None:
    desk.account.put_card(LINE, "Acme", "O'Hara")
    desk.account.add_fault(Fault(path="update_card", status=503, code=4004, retry_after=told))
    written = await desk.write("update", Fields(phone_number=LINE, first_name="Ann"))
    assert written.card is not None
    assert not written.card.is_active
    assert written.problem is not None
    assert "503/4004" in written.problem
    assert "the card is not active now" in written.problem
    assert written.advice == f"try again in {wait}: {CREATE}", "Linq would not update it now"
    assert desk.writes() == 1, "it asks for a wait"


async def test_a_lost_answer_is_looked_up(desk: Desk) -> None:
    desk.account.add_fault(Fault(path="create_card", drop="after", times=1))
    written = await desk.write("create")
    assert written.problem is None
    assert written.card is not None
    assert written.card.first_name == "Ann"
    desk.account.add_fault(Fault(path="update_card", drop="before", times=1))
    lost = await desk.write("update", Fields(phone_number=LINE, first_name="Bea"))
    assert lost.problem is not None
    assert lost.problem.startswith("no answer says whether it was done (")
    assert lost.advice is not None
    assert lost.advice.endswith(f"share-worker cards update {LINE} --first-name Bea")
    assert desk.writes() == 2, "nothing is repeated by itself"


async def test_a_try_that_was_done_after_all_is_no_conflict(desk: Desk) -> None:
    body = json.dumps({"error": {"status": 500, "code": 2022, "message": "not complete"}})
    desk.account.add_fault(Fault(path="create_card", status=500, body=body, takes_effect=True, times=1))
    written = await desk.write("create")
    assert desk.writes() == 2
    assert written.problem is None
    assert written.card is not None
    assert written.card.is_active


async def test_what_linq_refuses_is_told_in_its_own_words(desk: Desk) -> None:
    foreign = await desk.write("create", Fields(phone_number=OTHER, first_name="Ann"))
    assert foreign.problem is not None
    assert foreign.problem.startswith(
        "Linq refused it (400/1005: Invalid parameter value: phone_number is not assigned"
    )
    desk.key = "planted-wrong"
    locked_out = await desk.write("create")
    assert locked_out.problem is not None
    assert "401/2004" in locked_out.problem
    desk.base_url = "http://127.0.0.1:9"
    away = await desk.write("create")
    assert away.problem is not None
    assert away.problem.startswith("Linq cannot be reached, and nothing was sent (ConnectError")


# the commands


async def stored(scene: Scene) -> dict[str, bool]:
    """Which cards the database holds as active."""
    async with db.read(scene.engine) as connection:
        rows = await connection.execute(text("SELECT phone_number, is_active FROM contact_cards"))
        return {number: bool(is_active) for number, is_active in rows}


async def test_list_shows_each_line_with_its_card_and_its_chats(live: Scene, settings: dict[str, str]) -> None:
    live.add_line(OTHER, active=False)
    live.account.put_card(OTHER, "A\x1b[31mnn", is_active=False)
    for number in range(3):
        await live.add_chat(f"chat-{number}")
    await live.add_chat("other", from_number=OTHER)
    await live.add_chat("bare", from_number="+15550100003")
    await live.add_chat("bare-2", from_number="+15550100003")
    ended = await share_worker("cards", "list", **settings)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["line", "card", "chats", "name", "image"],
        [LINE, "active", "3", "Acme", "Support"],
        [OTHER, "not", "active", "1", "A", "[31mnn"],
        ["+15550100003", "none", "2"],
    ]
    assert f"{OTHER} has 1 chat and no active card. To make it one:" in lines
    assert "  share-worker cards create +15550100003 --first-name NAME" in lines
    document = json.loads((await share_worker("cards", "list", "--json", **settings)).out)
    told = [
        (line["phone_number"], line["card"] and line["card"]["is_active"], line["chats"]) for line in document["lines"]
    ]
    assert told == [(LINE, True, 3), (OTHER, False, 1), ("+15550100003", None, 2)]
    assert await stored(live) == {}, "a look writes nothing"


async def test_what_create_and_update_learn_is_known_to_the_next_look(live: Scene, settings: dict[str, str]) -> None:
    live.account.deactivate_card(LINE)
    created = await share_worker("cards", "create", "+1 (555) 010-0001", "--first-name", "Ann", **settings)
    assert created.code == 0
    assert created.err == f"share-worker: '+1 (555) 010-0001' is {LINE}\n"
    assert created.out == f"{LINE} (Ann): active\n"
    assert await stored(live) == {LINE: True}
    live.account.add_fault(Fault(path="update_card", status=503, code=4004, retry_after=60))
    failed = await share_worker("cards", "update", LINE, "--last-name", "Lee", "--json", **settings)
    assert failed.code == 1
    problem, advice = failed.err.splitlines()
    assert problem.startswith("share-worker: Linq did not complete it (503/4004: ")
    assert (
        advice == f"share-worker: try again in 60 s: share-worker cards create {LINE} --first-name Ann --last-name Lee"
    )
    assert json.loads(failed.out)["card"]["is_active"] is False
    assert await stored(live) == {LINE: False}


@sqlite_only
async def test_a_morning_with_an_inactive_card_is_repaired_as_the_commands_say(
    live: Scene, settings: dict[str, str]
) -> None:
    """Each advice is pasted as it stands."""
    await live.add_chat("chat")
    live.account.deactivate_card(LINE)
    updated = await share_worker("cards", "update", LINE, "--first-name", "Acme", **settings)
    assert updated.code == 1
    advice = updated.err.splitlines()[-1].partition("create it instead: share-worker ")[2]
    assert advice == f"cards create {LINE} --first-name Acme --last-name Support"
    assert (await share_worker(*advice.split(), **settings)).code == 0
    await share_worker("run", **settings)
    assert live.called() == ["chat"]


# without a database


async def test_cards_can_be_set_up_before_there_is_a_database(desk: Desk) -> None:
    settings = {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": desk.base_url, "DATABASE_URL": "sqlite:///none.db"}
    created = await share_worker("cards", "create", LINE, "--first-name", "Ann", **settings)
    assert (created.code, created.out) == (0, f"{LINE} (Ann): active\n")
    assert "the database file none.db does not exist" in created.err
    assert "the card is not noted there; the next pass reads it from Linq" in created.err
    listed = await share_worker("cards", "list", **settings)
    assert listed.code == 0
    assert [line.split() for line in listed.out.splitlines()] == [
        ["line", "card", "chats", "name", "image"],
        [LINE, "active", "?", "Ann"],
    ]
    (line,) = listed.err.splitlines()
    assert line.endswith("(so the chats are not counted)")
    desk.account.remove_card(LINE)
    none = await share_worker("cards", "list", **settings)
    assert none.out.startswith("The account has no contact cards; ")
    desk.account.access_denied = True
    assert "the contact cards could not be read: 403/2005" in one_line(
        await share_worker("cards", "list", **settings), 1
    )


async def test_ctrl_c_ends_the_wait_for_a_card(desk: Desk) -> None:
    desk.account.activation_delay = 10_000
    settings = {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": desk.base_url, "DATABASE_URL": "sqlite:///none.db"}
    process = await start("cards", "create", LINE, "--first-name", "Ann", **settings)
    assert process.stderr is not None
    assert b"waiting up to 60 s" in await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    ended = await finish(process)
    assert ended.code == 1
    assert "it was not active yet when the wait was ended" in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == f"{LINE} (Ann): not active\n"


@pytest.mark.parametrize(
    ("words", "sign"),
    [
        (["create", "5550100001", "--first-name", "Ann"], "'5550100001' has no country code"),
        (["create", LINE, "--first-name", " "], "the first name is empty; a card needs one"),
        (["update", LINE], "nothing to update; give --first-name, --last-name, --image-url or --no-image"),
        (["update", LINE, "--image-url", "http://x.example/a.png"], "the image URL is 'http://x.example/a.png', but"),
    ],
)
async def test_what_is_wrong_is_said_before_any_call(desk: Desk, words: list[str], sign: str) -> None:
    settings = {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": desk.base_url}
    assert sign in one_line(await share_worker("cards", *words, **settings), 2)
    assert desk.account.requests.total() == 0
