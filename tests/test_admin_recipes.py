"""The recipes of docs/admin.md, run as they stand: each command does what the recipe says of it."""

import re
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.commands import KEY, ROOT, share_worker
from tests.databases import sqlite_only
from tests.later import Later, ten_minutes_later, zone_where_it_is_noon
from tests.scene import LINE, Scene
from worker import db
from worker.clock import SystemClock
from worker.db.tables import share_attempts
from worker.rules.again import Again
from worker.simulator.account import Account, Line
from worker.simulator.faults import Fault
from worker.simulator.server import serving

TEXT = (ROOT / "docs" / "admin.md").read_text()
CHAT = "3f2b8c1e-0001"
NEIGHBOURS = ["3f2b8c1e-0002", "3f2b8c1e-0003"]


def recipes() -> dict[str, list[str]]:
    """The commands under each heading."""
    found = {}
    for part in TEXT.split("\n## ")[1:]:
        blocks = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
        commands = [line for block in blocks for line in block.splitlines() if line]
        if commands:
            found[part.partition("\n")[0]] = commands
    return found


@pytest.fixture
async def linq_clock() -> Later:
    return Later()


@pytest.fixture
async def live(engine: AsyncEngine, linq_clock: Later) -> AsyncIterator[Scene]:
    account = Account(clock=linq_clock.now)
    async with serving(account) as base_url:
        scene = Scene(engine=engine, account=account, base_url=base_url, clock=SystemClock())  # type: ignore[arg-type] # not moved
        scene.add_line()
        for chat_id in (CHAT, *NEIGHBOURS):
            await scene.add_chat(chat_id)
        yield scene


@pytest.fixture
def settings(live: Scene, database_url: str) -> dict[str, str]:
    return {
        "LINQ_API_KEY": KEY,
        "LINQ_BASE_URL": live.base_url,
        "DATABASE_URL": database_url,
        "SHARE_TIMEZONE": zone_where_it_is_noon(),
        "SHARE_CONCURRENCY": "1",
    }


Before = Callable[[Scene, dict[str, str]], Awaitable[None]]


async def shared_with_another_chat(live: Scene, settings: dict[str, str]) -> None:
    """A pass with a limit, which did not come to the chat."""
    await live.add_chat("0-another")
    assert (await share_worker("run", "--limit", "1", **settings)).code == 0


async def shared_today(live: Scene, settings: dict[str, str]) -> None:
    """A pass like any other."""
    assert (await share_worker("run", **settings)).code == 0


async def card_was_inactive(live: Scene, settings: dict[str, str]) -> None:
    """Linq listed the card as active, and refused the first share: 2012."""
    listed = f'{{"contact_cards": [{{"phone_number": "{LINE}", "first_name": "Acme", "is_active": true}}]}}'
    live.account.remove_card(LINE)
    live.account.add_fault(Fault(path="list_cards", body=listed, times=1))
    assert (await share_worker("run", **settings)).code == 0
    assert await live.outcomes() == {CHAT: "rejected"}


async def line_was_refused(live: Scene, settings: dict[str, str]) -> None:
    """The first share of the line got a 2027, and its other chats were left alone."""
    live.account.put_line(Line(LINE, is_refused=True))
    assert (await share_worker("run", **settings)).code == 0
    assert await live.outcomes() == {CHAT: "rejected"}


async def key_was_of_another_account(live: Scene, settings: dict[str, str]) -> None:
    """Linq knew none of the chats: 2001."""
    live.account.add_fault(Fault(path="share", status=404, code=2001, times=3))
    assert (await share_worker("run", **settings)).code == 1
    assert set((await live.outcomes()).values()) == {"rejected"}


async def linq_was_down(live: Scene, settings: dict[str, str]) -> None:
    """Ten requests in a row got a 503, and the pass stopped."""
    await live.add_chats(f"chat-{number:02}" for number in range(20))
    live.account.add_fault(Fault(path="share", status=503, times=10))
    ended = await share_worker("run", **settings)
    assert ended.code == 1
    assert "10 requests in a row got no answer of Linq's" in ended.out


async def key_was_refused(live: Scene, settings: dict[str, str]) -> None:
    """The key was good for the cards, and no more for the first share."""
    live.account.add_fault(Fault(path="share", status=401, code=2004, times=1))
    assert (await share_worker("run", **settings)).code == 1


async def ran_twice(live: Scene, settings: dict[str, str]) -> None:
    """The same pass by two people."""
    for _ in range(2):
        assert (await share_worker("run", **settings)).code == 0


async def had_a_march(live: Scene, settings: dict[str, str]) -> None:
    """A ledger that reaches back."""
    rows = [(date(2026, 2, 28), "shared"), (date(2026, 3, 9), "unknown"), (date(2026, 3, 31), "shared")]
    async with db.write(live.engine) as connection:
        for day, outcome in rows:
            at = datetime(day.year, day.month, day.day, 10, tzinfo=ZoneInfo(settings["SHARE_TIMEZONE"]))
            await connection.execute(
                insert(share_attempts).values(
                    chat_id=CHAT,
                    share_day=day,
                    sequence=0,
                    outcome=outcome,
                    run_id="old",
                    claimed_at=at,
                    finished_at=at,
                )
            )


@dataclass(frozen=True)
class Expected:
    """What a recipe finds, what each of its commands prints (in order), and whom Linq was called for in the end."""

    before: Before
    prints: list[str]
    calls: dict[str, int]


ONCE = {CHAT: 1, **dict.fromkeys(NEIGHBOURS, 1)}
EXPECTED = {
    "A chat got no card today": Expected(
        shared_with_another_chat, ["\n  due: ", "next pass", "completed"], {"0-another": 1}
    ),
    "A recipient complains": Expected(shared_today, ["already_today", "shared", "paused"], ONCE),
    "A line's card was inactive": Expected(
        card_was_inactive,
        ["no active card", "2012", "active", "shared  ", "shared  "],
        {CHAT: 2, **dict.fromkeys(NEIGHBOURS, 1)},
    ),
    "Linq refused a line": Expected(line_was_refused, ["Linq refused it (403/2027), until ", "2027"], {CHAT: 1}),
    "The key belonged to another account": Expected(
        key_was_of_another_account,
        ["All is well", "3 chats restored", "shared  3", "already_today  3"],
        {CHAT: 2, **dict.fromkeys(NEIGHBOURS, 2)},
    ),
    "Linq was down": Expected(
        linq_was_down,
        ["stopped", "completed", "unknown", "shared  10"],
        {},
    ),
    "The API key was refused": Expected(
        key_was_refused, ["accepted", "shared  ", "shared  1"], {CHAT: 2, **dict.fromkeys(NEIGHBOURS, 1)}
    ),
    "Somebody started it twice": Expected(ran_twice, ["completed", "shared"], ONCE),
    "What happened in a chat in March": Expected(had_a_march, ["2026-03-09", "2026-03-31"], {}),
    "Share again today": Expected(card_was_inactive, ["no_card"], {CHAT: 1}),
    "The ledger has grown large": Expected(shared_today, [""], ONCE),
}


def test_every_recipe_is_run() -> None:
    assert list(recipes()) == list(EXPECTED)


@sqlite_only
@pytest.mark.parametrize("title", list(EXPECTED))
async def test_recipe(title: str, live: Scene, linq_clock: Later, settings: dict[str, str]) -> None:
    expected, commands = EXPECTED[title], recipes()[title]
    await expected.before(live, settings)
    assert len(expected.prints) == len(commands)
    for command, printed in zip(commands, expected.prints, strict=True):
        program, *words = shlex.split(command)
        assert program == "share-worker"
        if words[0] == "rerun":
            await ten_minutes_later(live, linq_clock)
        ended = await share_worker(*words, **settings)
        assert ended.code == 0, (command, ended)
        assert printed in ended.out, (command, ended)
    if expected.calls:
        called = live.called()
        assert {chat_id: called.count(chat_id) for chat_id in called} == expected.calls


def test_every_ruling_is_explained() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", TEXT.partition("| ruling |")[2], re.MULTILINE))
    assert told == {name.value: name.meaning for name in Again}


def test_the_link_from_the_readme() -> None:
    assert "docs/admin.md" in Path(ROOT / "README.md").read_text()
