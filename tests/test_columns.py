"""Columns on a terminal: names of any script stand in line, and nothing is wider than the terminal."""

import unicodedata

import pytest

from worker.cli.output import attempts, chats, runs
from worker.cli.output.tables import column_lines

NAMES = ["Ann", "山田太郎", "Zoe\u0308", "Bea 👋", "김서연 & Co"]
HEAD = ["name", "chats", "image"]
ROWS = [(name, str(10**number), f"https://example.com/{number}.png") for number, name in enumerate(NAMES)]


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes, by Unicode's own tables."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def test_columns_stand_in_line_whatever_script_a_name_is_written_in() -> None:
    head, *lines = column_lines(HEAD, ROWS, right=["chats"])
    starts = {columns_of(line[: line.index("https")]) for line in lines}
    assert starts == {columns_of("김서연 & Co") + len("  chats  ")} == {head.index("image")}
    assert [" ".join(line.split()) for line in lines] == [" ".join(row) for row in ROWS]


@pytest.mark.parametrize("width", [2, 5, 6, 7, 20, 33, 44])
def test_a_line_is_cut_where_the_terminal_ends_and_no_letter_is_halved(width: int) -> None:
    for line, whole in zip(column_lines(HEAD, ROWS, width=width), column_lines(HEAD, ROWS), strict=True):
        assert columns_of(line) == min(width, columns_of(whole))
        assert line == whole or (line[-1] in "…~" and whole.startswith(line[:-1].rstrip()))


COUNTS = ("1,000,000", "0", "0", "0", "0")
RUNS = [
    ("20260310T090000Z-a1b2c3", "completed", *COUNTS, "2026-03-10 10:00+01", "1:02:31", "catch_up", "2026-03-10"),
]
ATTEMPTS = [
    ("2026-03-10 10:00+01", "7d9f2c1e-3b52-4a0e-9c55-0f6a2d8e4b71", "rejected", "404/2012", "no active contact card"),
    ("2026-03-10 10:00+01", "7d9f2c1e-3b52-4a0e-9c55-0f6a2d8e4b72", "shared", "202", ""),
]


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (140, []),
        (80, ["share day", "trigger", "took", "started"]),
        (60, ["share day", "trigger", "took", "started", "unsent", "unknown", "left"]),
    ],
)
def test_a_narrow_terminal_loses_the_less_important_columns_of_runs(width: int, left_out: list[str]) -> None:
    lines = list(column_lines(runs.HEAD, RUNS, expendable=runs.EXPENDABLE, width=width))
    assert all(len(line) <= width for line in lines)
    assert lines[1].split()[:3] == ["20260310T090000Z-a1b2c3", "completed", "1,000,000"]
    note = f"columns left out: {', '.join(left_out)}; widen the terminal or use --json" if left_out else ""
    assert " ".join(lines[2:]) == note
    assert not [name for name in left_out if name in lines[0]]


@pytest.mark.parametrize(
    ("width", "shown"),
    [(92, "claimed chat outcome answer note"), (80, "claimed chat outcome answer"), (60, "chat outcome answer")],
)
def test_a_narrow_terminal_shows_ids_and_answers_of_attempts_whole(width: int, shown: str) -> None:
    lines = list(column_lines(attempts.HEAD, ATTEMPTS, expendable=attempts.EXPENDABLE, width=width))
    assert all(len(line) <= width for line in lines)
    assert " ".join(lines[0].split()) == shown
    assert f"{ATTEMPTS[0][1]}  rejected  404/2012" in lines[1]


def test_only_a_terminal_loses_columns() -> None:
    lines = list(column_lines(attempts.HEAD, ATTEMPTS, expendable=attempts.EXPENDABLE))
    assert lines[1].endswith("  no active contact card")
    assert len(lines) == 3


CHATS = [("7d9f2c1e-3b52-4a0e-9c55-0f6a2d8e4b71", "+15550100001", "2026-03-10 10:00+01", "card_inactive")]


@pytest.mark.parametrize(
    ("width", "shown"),
    [(100, "chat line last outbound verdict"), (80, "chat last outbound verdict"), (60, "chat verdict")],
)
def test_a_narrow_terminal_shows_ids_and_verdicts_of_chats_whole(width: int, shown: str) -> None:
    lines = list(column_lines(chats.HEAD, CHATS, expendable=chats.EXPENDABLE, width=width))
    assert all(len(line) <= width for line in lines)
    assert " ".join(lines[0].split()) == shown
    assert lines[1].startswith(CHATS[0][0])
    assert lines[1].endswith("  card_inactive")
