"""Real workers killed again and again, in short; `make torture` does it for some minutes."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.torture import CONCURRENCY, noon_zone, torture


@pytest.mark.timeout(600)
async def test_workers_that_are_killed_a_dozen_times_call_nobody_twice_and_leave_nobody_out(
    empty_database: str,
) -> None:
    figures = await torture(empty_database, kind=empty_database.partition(":")[0], kills=12, seed=1)
    assert figures.wrong == []
    assert (figures.kills, figures.doubles, figures.left_out) == (12, 0, 0)
    assert 0 < figures.most_open <= CONCURRENCY
    assert 0 < figures.shared <= figures.calls


def test_the_share_day_of_a_torture_does_not_end_while_it_runs() -> None:
    for hour in range(24):
        now = datetime(2026, 3, 10, hour, 59, tzinfo=UTC)
        zone = ZoneInfo(noon_zone(now))
        assert {(now + timedelta(hours=by)).astimezone(zone).date() for by in (-11, 0, 11)} == {
            now.astimezone(zone).date()
        }
