"""What the log says of a database that cannot be reached, and how long it is waited for."""

import math

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from structlog.testing import capture_logs

from worker import db
from worker.db.outage import PATIENCE_SECONDS, REPEAT_SECONDS

LOST = PoolTimeoutError("no answer within 10 s")
START = 1000.0


def outage() -> db.Outage:
    return db.Outage(make_url("postgresql+psycopg://worker:planted-password@db/share"))


def test_an_outage_is_logged_when_it_begins_every_half_minute_and_when_it_ends() -> None:
    lost = outage()
    with capture_logs() as logs:
        for second in range(70):
            lost.failed(LOST, START + second, answers_in_hand=2)
        lost.ended(START + 70)
        lost.ended(START + 71)
    assert [line["event"] for line in logs] == ["database.lost"] * 3 + ["database.back"]
    assert logs[0]["reason"] == "the database postgresql://worker:***@db/share cannot be reached: no answer within 10 s"
    assert logs[0]["answers_in_hand"] == 2
    assert logs[-1]["seconds"] == 70
    assert REPEAT_SECONDS == 30


def test_the_next_outage_is_logged_at_once() -> None:
    lost = outage()
    with capture_logs() as logs:
        for start in (START, START + 2):
            lost.failed(LOST, start)
            lost.ended(start + 1)
    assert [line["event"] for line in logs] == ["database.lost", "database.back"] * 2


def test_an_outage_is_waited_out_for_five_minutes() -> None:
    lost = outage()
    lost.failed(LOST, START)
    lost.failed(LOST, START + PATIENCE_SECONDS - 1)
    with pytest.raises(PoolTimeoutError):
        lost.failed(LOST, START + PATIENCE_SECONDS)
    assert PATIENCE_SECONDS == 300


def test_who_has_all_the_time_waits_for_ever() -> None:
    lost = outage()
    for day in range(3):
        lost.failed(LOST, START + day * 86_400, patience=math.inf)
    with pytest.raises(PoolTimeoutError):
        lost.failed(LOST, START + 3 * 86_400)


def test_after_the_deadline_there_is_no_other_try() -> None:
    lost = outage()
    lost.failed(LOST, START, deadline=START + 1)
    with pytest.raises(PoolTimeoutError):
        lost.failed(LOST, START + 1, deadline=START + 1)


@pytest.mark.parametrize(
    "error",
    [
        ProgrammingError("SELECT 1", None, Exception("no such table")),
        OperationalError("SELECT 1", None, Exception("password authentication failed")),
    ],
)
def test_what_will_not_pass_by_itself_is_not_waited_for(error: SQLAlchemyError) -> None:
    with capture_logs() as logs, pytest.raises(type(error)):
        outage().failed(error, START)
    assert logs == []
