"""The schedule: what crontab(5) means by an expression, in every time zone, when clocks change too."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from worker.rules.hours import Hours
from worker.rules.schedule import Schedule

BERLIN = ZoneInfo("Europe/Berlin")


def fires(expression: str, zone: str, start: datetime, days: int) -> list[datetime]:
    """The times in some days, as the clocks on the wall show them."""
    schedule = Schedule(expression, ZoneInfo(zone))
    end, moment, found = start + timedelta(days=days), start, []
    while (following := schedule.after(moment)) is not None and following < end:
        found.append(following.astimezone(ZoneInfo(zone)))
        moment = following
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 10 * * *", ["2026-03-01T10:00", "2026-03-02T10:00"]),
        ("30 9,17 * * *", ["2026-03-01T09:30", "2026-03-01T17:30"]),
        ("0 0 * * 0", ["2026-03-01T00:00", "2026-03-08T00:00"]),
        ("0 0 * * 7", ["2026-03-01T00:00", "2026-03-08T00:00"]),
        ("0 0 * * 1", ["2026-03-02T00:00", "2026-03-09T00:00"]),
        ("0 0 * * sun", ["2026-03-01T00:00", "2026-03-08T00:00"]),
        ("0 0 * * MON-FRI", ["2026-03-02T00:00", "2026-03-03T00:00"]),
        ("0 0 * * 5-7", ["2026-03-01T00:00", "2026-03-06T00:00"]),
        ("0 0 * * 6,7", ["2026-03-01T00:00", "2026-03-07T00:00"]),
        ("0 0 1 jan *", ["2027-01-01T00:00", "2028-01-01T00:00"]),
        ("*/20 8-9 * * *", ["2026-03-01T08:00", "2026-03-01T08:20"]),
        ("10-40/15 8 * * *", ["2026-03-01T08:10", "2026-03-01T08:25"]),
        ("0 0 13 * fri", ["2026-03-06T00:00", "2026-03-13T00:00"]),
        ("0 0 */2 * sun", ["2026-03-01T00:00", "2026-03-15T00:00"]),
        ("0 0 29 2 *", ["2028-02-29T00:00", "2032-02-29T00:00"]),
        ("@daily", ["2026-03-01T00:00", "2026-03-02T00:00"]),
        ("@Midnight", ["2026-03-01T00:00", "2026-03-02T00:00"]),
        ("@hourly", ["2026-03-01T00:00", "2026-03-01T01:00"]),
        ("@weekly", ["2026-03-01T00:00", "2026-03-08T00:00"]),
        ("@monthly", ["2026-03-01T00:00", "2026-04-01T00:00"]),
        ("@yearly", ["2027-01-01T00:00", "2028-01-01T00:00"]),
        ("  0   10  *\t*  * ", ["2026-03-01T10:00", "2026-03-02T10:00"]),
    ],
)
def test_an_expression_means_what_crontab_means(expression: str, expected: list[str]) -> None:
    """The first of March 2026 is a Sunday; where day of month and weekday are both given, either of them fires."""
    start = datetime(2026, 2, 28, 23, 59, tzinfo=UTC)
    found = fires(expression, "UTC", start, 3000)[:2]
    assert [fire.isoformat(timespec="minutes").partition("+")[0] for fire in found] == expected


@pytest.mark.parametrize(
    ("expression", "sign"),
    [
        ("", "it has 0 fields"),
        ("10:00", "it is none of @yearly"),
        ("@reboot", "it is none of @yearly"),
        ("0 10 * *", "it has 4 fields"),
        ("0 0 10 * * *", "it has 6 fields"),
        ("60 * * * *", "bad minute"),
        ("0 24 * * *", "bad hour"),
        ("0 0 0 * *", "bad day of month"),
        ("0 0 30 2 *", "bad day of month"),
        ("0 0 * 13 *", "bad month"),
        ("0 0 * * 8", "bad day of week"),
        ("5-1 * * * *", "bad minute"),
        ("*/0 * * * *", "bad minute"),
        ("5/15 * * * *", "'5/15' is no minute"),
        ("1,,2 * * * *", "'' is no minute"),
        ("0 0 L * *", "'L' is no day of month"),
        ("0 0 * * 5#2", "'5#2' is no day of week"),
        ("0 0 * mon *", "'mon' is no month"),
        ("0 noon * * *", "'noon' is no hour"),
    ],
)
def test_what_is_no_expression_says_which_part(expression: str, sign: str) -> None:
    with pytest.raises(ValueError, match="^" + sign.replace("*", r"\*")):
        Schedule(expression, UTC)


CHANGES = [
    ("Europe/Berlin", date(2026, 3, 29), "30 2 * * *", "03:00"),
    ("Europe/Berlin", date(2026, 10, 25), "30 2 * * *", "02:30"),
    ("America/New_York", date(2026, 3, 8), "15 2 * * *", "03:00"),
    ("America/New_York", date(2026, 11, 1), "15 1 * * *", "01:15"),
    ("Australia/Lord_Howe", date(2026, 10, 4), "10 2 * * *", "02:30"),
    ("Australia/Lord_Howe", date(2026, 4, 5), "40 1 * * *", "01:40"),
    ("America/Sao_Paulo", date(2018, 11, 4), "0 0 * * *", "01:00"),
    ("America/Havana", date(2018, 11, 4), "30 0 * * *", "00:30"),
    ("Africa/Cairo", date(2026, 4, 24), "0 0 * * *", "01:00"),
    ("Europe/Berlin", date(2026, 3, 29), "0 10 * * *", "10:00"),
    ("Asia/Kolkata", date(2026, 3, 29), "0 10 * * *", "10:00"),
    ("Africa/Cairo", date(2026, 4, 24), "0 */24 * * *", "01:00"),
    ("Pacific/Auckland", date(2026, 9, 27), "45 2 * * *", "03:00"),
    ("Pacific/Auckland", date(2026, 4, 5), "45 2 * * *", "02:45"),
    ("America/Santiago", date(2026, 9, 6), "30 0 * * *", "01:00"),
    ("America/Santiago", date(2026, 4, 4), "30 23 * * *", "23:30"),
]


@pytest.mark.parametrize(("zone", "day", "expression", "at"), CHANGES)
def test_a_time_that_a_clock_change_skips_or_repeats_comes_once_that_day(
    zone: str, day: date, expression: str, at: str
) -> None:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=3)
    found = fires(expression, zone, start, 7)
    days = Counter(fire.date() for fire in found)
    assert set(days.values()) == {1}
    assert len(days) >= 6
    (of_the_day,) = [fire for fire in found if fire.date() == day]
    assert of_the_day.strftime("%H:%M") == at


@pytest.mark.parametrize(("zone", "day", "expression", "at"), CHANGES)
def test_the_latest_time_of_a_day_is_the_one_that_fired(zone: str, day: date, expression: str, at: str) -> None:
    schedule = Schedule(expression, ZoneInfo(zone))
    much_later = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=5)
    fire = schedule.latest_on(day, much_later)
    assert fire is not None
    assert fire.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M") == f"{day} {at}"
    assert schedule.latest_on(day, fire) == fire
    assert schedule.latest_on(day, fire - timedelta(seconds=1)) is None
    assert schedule.after(fire - timedelta(seconds=1)) == fire


def test_a_star_for_the_minute_does_not_let_a_day_slip_through_the_gap() -> None:
    for expression, of_the_day in (
        ("*/20 2 * * *", ["03:00"]),
        ("* 2 * * *", ["03:00"]),
        ("0 */2 * * *", ["00:00", "03:00"]),
    ):
        found = fires(expression, "Europe/Berlin", datetime(2026, 3, 28, 22, 59, tzinfo=UTC), 1)
        assert [fire.strftime("%H:%M") for fire in found][: len(of_the_day)] == of_the_day
    found = fires("*/20 2 * * *", "Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC), 1)
    assert [fire.strftime("%H:%M") for fire in found] == ["02:00", "02:20", "02:40"], "and none comes twice"


def test_what_comes_every_hour_goes_by_the_hours_that_the_day_has() -> None:
    for day, hours in ((date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 7, 1), 24)):
        start = datetime(day.year, day.month, day.day, tzinfo=BERLIN).astimezone(UTC) - timedelta(seconds=1)
        found = fires("30 * * * *", "Europe/Berlin", start, 2)
        assert sum(fire.date() == day for fire in found) == hours


def test_of_several_times_a_day_the_latest_that_has_come_counts() -> None:
    schedule = Schedule("0 9,13,18 * * *", BERLIN)
    noon = datetime(2026, 7, 1, 12, tzinfo=BERLIN)
    fire = schedule.latest_on(date(2026, 7, 1), noon)
    assert fire == datetime(2026, 7, 1, 9, tzinfo=BERLIN)
    assert schedule.latest_on(date(2026, 7, 2), noon) is None


# SHARE_HOURS


@pytest.mark.parametrize(
    ("written", "at", "is_open"),
    [
        ("09:00-21:00", "08:59:59", False),
        ("09:00-21:00", "09:00:00", True),
        ("09:00-21:00", "20:59:59", True),
        ("09:00-21:00", "21:00:00", False),
        ("20:00-02:00", "19:59:59", False),
        ("20:00-02:00", "20:00:00", True),
        ("20:00-02:00", "01:59:59", True),
        ("20:00-02:00", "02:00:00", False),
        ("22:00-24:00", "23:59:59", True),
        ("22:00-24:00", "00:00:00", False),
    ],
)
def test_the_hours_begin_with_their_first_minute_and_end_before_their_last(
    written: str, at: str, is_open: bool
) -> None:
    moment = datetime.fromisoformat(f"2026-03-10T{at}").replace(tzinfo=BERLIN)
    assert Hours.parse(written).contain(moment, BERLIN) is is_open


@pytest.mark.parametrize(
    ("at", "opens"),
    [
        ("2026-03-28T22:00+01:00", "2026-03-29T03:00+02:00"),  # 02:30 does not come: the gap ends at 03:00
        ("2026-10-24T22:00+02:00", "2026-10-25T02:30+02:00"),  # 02:30 comes twice: the first one
    ],
)
def test_hours_that_daylight_saving_skips_begin_at_the_end_of_the_gap(at: str, opens: str) -> None:
    hours = Hours.parse("02:30-04:00")
    assert hours.opening(datetime.fromisoformat(at), BERLIN) == datetime.fromisoformat(opens)
