"""Columns on a terminal: names of any script stand in line, and nothing is wider than the terminal."""

import unicodedata

import pytest

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
