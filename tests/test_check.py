"""`check` tells a wrong account, resting lines and hours that never come, before a pass meets them."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, update

from tests.commands import share_worker
from tests.databases import sqlite_only
from tests.scene import LINE, Scene
from worker import db
from worker.db.tables import chats, lines
from worker.simulator.account import Line

pytestmark = sqlite_only

OTHER = "+15550100002"


def about(document: str, word: str) -> list[tuple[str, str]]:
    findings = json.loads(document)["findings"]
    return [(finding["state"], finding["found"]) for finding in findings if finding["about"] == word]


async def test_a_key_of_another_account_is_not_well(live: Scene, settings: dict[str, str]) -> None:
    for number in range(7):
        await live.add_chat(f"chat-{number}")
    assert ("ok", "Linq has the 5 due chats that were looked up") in about(
        (await share_worker("check", "--json", **settings)).out, "chats"
    )
    live.account.remove_chat("chat-3")
    some = await share_worker("check", "--json", **settings)
    assert some.code == 0
    assert about(some.out, "chats")[1] == (
        "note",
        "Linq does not have 1 of the 5 due chats that were looked up, such as chat-3;"
        " a pass marks such chats as missing",
    )
    for chat_id in ("chat-0", "chat-1", "chat-2", "chat-4"):
        live.account.remove_chat(chat_id)
    ended = await share_worker("check", **settings)
    assert ended.code == 1
    assert (
        "FAIL  chats     Linq does not have 5 of the 5 due chats that were looked up, such as chat-0:"
        " is LINQ_API_KEY of the account that has these chats?\n"
    ) in ended.out
    assert live.called() == []


async def test_a_chat_that_another_line_sends_for_is_named(live: Scene, settings: dict[str, str]) -> None:
    live.add_line(OTHER)
    await live.add_chat("moved")
    async with db.write(live.engine) as connection:
        await connection.execute(update(chats).values(from_number=OTHER))
    ended = await share_worker("check", **settings)
    assert ended.code == 1
    found = f"chat moved has from_number {OTHER}, but Linq sends for it from {LINE}; correct the table"
    assert f"FAIL  chats     {found}\n" in ended.out


async def test_lines_that_rest_are_named_by_check_status_and_cards_list(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("chat")
    live.add_line(OTHER)
    await live.add_chat("other", from_number=OTHER)
    live.account.put_line(Line(OTHER, reputation="CRITICAL"))
    now = datetime.now(UTC)
    refused = {"phone_number": LINE, "refused_at": now, "checked_at": now}
    async with db.write(live.engine) as connection:
        await connection.execute(insert(lines), [refused])
    until = f"{now + timedelta(hours=1):%Y-%m-%d %H:%M}+00"
    first = f"{LINE} rests, with its 1 chat: Linq refused it (403/2027), until {until}"
    second = f"{OTHER} rests, with its 1 chat: its reputation is CRITICAL"
    checked = await share_worker("check", "--json", **settings)
    assert about(checked.out, "line") == [("note", first), ("note", second)]
    assert about(checked.out, "chats") == [("ok", "0 of 2 are due now; 2 line_resting")]
    listed = await share_worker("cards", "list", **settings)
    assert first in listed.out
    assert second in listed.out
    assert json.loads((await share_worker("cards", "list", "--json", **settings)).out)["resting"][0]["why"]
    status = await share_worker("status", **settings)  # by what the last pass saw
    assert f"resting    {LINE} (1 chat): Linq refused it (403/2027), until {until}\n" in status.out
    assert len(json.loads((await share_worker("status", "--json", **settings)).out)["resting"]) == 1


async def test_hours_that_no_scheduled_time_meets_are_wrong(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("chat")
    hours = {"SHARE_HOURS": "09:00-21:00", "SHARE_SCHEDULE": "0 22 * * *"}
    never = await share_worker("check", **settings, **hours)
    assert never.code == 1
    found = "no time of SHARE_SCHEDULE leads to a pass in SHARE_HOURS 09:00-21:00 (UTC): no chat is ever shared with"
    assert f"FAIL  hours     {found}\n" in never.out
    later = await share_worker("check", **settings, **hours | {"SHARE_SCHEDULE": "0 7 * * *"})
    assert later.code == 0
    assert "The next scheduled pass shares " in later.out
    assert " 09:00+00\n" in later.out


@pytest.mark.parametrize(
    ("setting", "column"),
    [("SHARE_REQUIRE_INBOUND", "last_inbound_at"), ("SHARE_STOP_WHEN_RECEIVED", "card_received_at")],
)
async def test_a_setting_that_looks_at_an_empty_column_is_named(
    live: Scene, settings: dict[str, str], setting: str, column: str
) -> None:
    await live.add_chat("chat")
    ended = await share_worker("check", **settings, **{setting: "true"})
    assert ended.code == 1
    assert f"FAIL  chats     {setting} is true, but {column} is empty in every chat" in ended.out
    async with db.write(live.engine) as connection:
        await connection.execute(update(chats).values({column: datetime(2026, 1, 1, tzinfo=UTC)}))
    assert (await share_worker("check", **settings, **{setting: "true"})).code == 0
