"""The geometry of the page's bars; the templates draw it as inline SVG."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from worker.outcomes import FINISHED

STEP: Final = 20
"""From one day's bar to the next."""

HEIGHT: Final = 140

LEAST: Final = 3.0
"""A part of a bar that stands for anything is as high as this: a few refusals among thousands are seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of a bar: one outcome."""

    outcome: str
    y: float
    height: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DayBar:
    """One day's bar."""

    day: date
    x: int
    parts: list[Part]
    counts: Mapping[str, int]
    total: int


def day_bars(days: Mapping[date, Mapping[str, int]]) -> list[DayBar]:
    """A bar for each day, in the order given, as high as its share of the highest one."""
    totals = {day: sum(counts.get(outcome, 0) for outcome in FINISHED) for day, counts in days.items()}
    most = max([*totals.values(), 1])
    return [
        DayBar(day=day, x=number * STEP, parts=_parts(counts, most), counts=counts, total=totals[day])
        for number, (day, counts) in enumerate(days.items())
    ]


def _parts(counts: Mapping[str, int], most: int) -> list[Part]:
    heights = {outcome: max(counts[outcome] / most * HEIGHT, LEAST) for outcome in FINISHED if counts.get(outcome, 0)}
    excess = sum(heights.values()) / HEIGHT
    parts, foot = [], float(HEIGHT)
    for outcome, height in heights.items():
        fitting = height / max(excess, 1.0)
        foot -= fitting
        parts.append(Part(outcome=outcome.value, y=round(foot, 2), height=round(fitting, 2)))
    return parts
