"""Reads the part of an address after the question mark; what is wrong there is told on the page."""

from collections.abc import Iterable
from datetime import date
from enum import StrEnum
from typing import TypeVar

from worker.web.pages.render import Reading

W = TypeVar("W", bound=StrEnum)


def word(reading: Reading, name: str) -> str | None:
    """One value; None if it is not given, or empty."""
    return reading.request.query_params.get(name, "").strip() or None


def day(reading: Reading, name: str) -> date | None:
    """A share day, as YYYY-MM-DD."""
    written = word(reading, name)
    try:
        return date.fromisoformat(written) if written else None
    except ValueError:
        reading.errors.append(f"{name} is {written!r}; it must be a day such as {reading.now:%Y-%m-%d}")
        return None


def words(reading: Reading, name: str, known: Iterable[W]) -> list[W]:
    """The values given of those that are known."""
    by_name = {each.value: each for each in known}
    found = []
    for written in filter(None, reading.request.query_params.getlist(name)):
        if written in by_name:
            found.append(by_name[written])
        else:
            reading.errors.append(f"{name} is {written!r}; it must be one of {', '.join(by_name)}")
    return found


def numbers(reading: Reading, name: str) -> list[int]:
    """The whole numbers given."""
    found = []
    for written in filter(None, reading.request.query_params.getlist(name)):
        if written.isascii() and written.isdigit() and len(written) < 10:
            found.append(int(written))
        else:
            reading.errors.append(f"{name} is {written!r}; it must be a whole number")
    return found
