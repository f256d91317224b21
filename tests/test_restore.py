"""`chats restore`: what Linq once said of a chat is forgotten, and nothing else is changed."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import select, update

from tests.commands import share_worker
from tests.scene import Scene
from worker import db
from worker.chats.restore import RestoreFilter, count_marked, restore
from worker.db.tables import chats

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OTHER = "+15550100002"


@pytest.fixture
async def marked(scene: Scene) -> Scene:
    """Chats that are missing, opted out, both, and paused as well."""
    scene.add_line(OTHER)
    for chat_id in ("gone", "stopped", "both"):
        await scene.add_chat(chat_id)
    await scene.add_chat("other", from_number=OTHER)
    async with db.write(scene.engine) as connection:
        for column, ids in (("missing_at", ["gone", "both", "other"]), ("opted_out_at", ["stopped", "both"])):
            await connection.execute(update(chats).where(chats.c.id.in_(ids)).values({column: AT}))
        await connection.execute(update(chats).where(chats.c.id == "gone").values(paused_at=AT))
    return scene


async def still_marked(scene: Scene) -> dict[str, tuple[bool, bool]]:
    async with db.read(scene.engine) as connection:
        rows = await connection.execute(select(chats.c.id, chats.c.missing_at, chats.c.opted_out_at))
        return {chat_id: (missing is not None, opted_out is not None) for chat_id, missing, opted_out in rows}


@pytest.mark.parametrize(
    ("wanted", "counts", "left"),
    [
        (RestoreFilter(opted_out=False), {"missing_at": 3}, {"stopped": (False, True), "both": (False, True)}),
        (
            RestoreFilter(missing=False),
            {"opted_out_at": 2},
            {"gone": (True, False), "both": (True, False), "other": (True, False)},
        ),
        (
            RestoreFilter(chat_ids=["both", "nobody"]),
            {"missing_at": 1, "opted_out_at": 1},
            {"gone": (True, False), "stopped": (False, True), "other": (True, False)},
        ),
        (
            RestoreFilter(lines=[OTHER]),
            {"missing_at": 1, "opted_out_at": 0},
            {"gone": (True, False), "stopped": (False, True), "both": (True, True)},
        ),
    ],
    ids=["missing", "opted out", "by id", "by line"],
)
async def test_what_is_asked_for_is_forgotten_and_nothing_else(
    marked: Scene, wanted: RestoreFilter, counts: dict[str, int], left: dict[str, tuple[bool, bool]]
) -> None:
    async with db.write(marked.engine) as connection:
        assert await count_marked(connection, wanted) == counts
        await restore(connection, wanted, marked.clock.now())
    marks = await still_marked(marked)
    assert {chat_id: mark for chat_id, mark in marks.items() if any(mark)} == left
    async with db.read(marked.engine) as connection:
        assert (await connection.execute(select(chats.c.paused_at).where(chats.c.id == "gone"))).scalar_one() == AT


async def test_without_a_choice_the_command_says_what_to_give() -> None:
    ended = await share_worker("chats", "restore")
    assert ended.code == 2
    assert ended.err == (
        "share-worker: say which chats to restore: their ids, --missing, --opted-out, or --line +NUMBER\n"
    )
