"""A worker's life, in short; `make soak` makes it a month with 20,000 chats."""

import pytest

from tests.soak import Day, growth, soak


@pytest.mark.timeout(600)
async def test_a_worker_that_serves_for_days_holds_no_more_of_the_machine_than_at_first(empty_database: str) -> None:
    month = await soak(
        empty_database, kind=empty_database.partition(":")[0], days=5, count=300, seed=1, say=lambda _line: None
    )
    assert month.wrong == []
    assert len(month.days) == 5
    assert sum(len(day["passes"]) for day in month.days) == 6, "one was stopped by a refused key and taken up again"
    assert month.calls > 200
    assert month.webhooks["written"] > 300, "each was answered 204, and the table is as they say"
    assert month.webhooks["refused"] == 5 * 3 * 4, "each day four kinds of forged or broken ones came, three times"
    assert month.webhooks["failed"] > 0, "some were answered 503, and came again"


def lived(**changes: float) -> list[Day]:
    """Thirty days, in which something grows by so much a day."""
    flat = {"rss_mb": 90.0, "files": 30, "sockets": 22, "tasks": 2, "threads": 2, "objects": 100_000, "own": 300}
    return [
        Day(day="", passes=[], **{name: level + number * changes.get(name, 0) for name, level in flat.items()})  # type: ignore[typeddict-item] # mypy cannot read the names
        for number in range(30)
    ]


@pytest.mark.parametrize(
    ("name", "a_day"),
    [("rss_mb", 0.4), ("files", 1), ("sockets", 1), ("tasks", 1), ("threads", 1), ("objects", 500), ("own", 1)],
)
def test_what_grows_day_by_day_is_named(name: str, a_day: float) -> None:
    (found,) = growth(lived(**{name: a_day}))
    assert found.startswith(f"{name} grew from")
    assert growth(lived()) == []
