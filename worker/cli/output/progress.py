"""What a terminal shows while a pass runs: how far it is, and one line for each reason why Linq refuses."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from worker.outcomes import Answer, Outcome
from worker.sharing.watch import UNWATCHED, Watch
from worker.text import one_line

REASONS_SHOWN: Final = 5


@contextmanager
def progress(*, shown: bool) -> Iterator[Watch]:
    """Show the progress of a pass on stderr while the block lasts, if `shown`; log lines go above it."""
    if not shown:
        yield UNWATCHED
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    console = Console(stderr=True)
    display = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )
    task = display.add_task("reading cards", total=None, rate="")
    outcomes: Counter[Outcome] = Counter()
    reasons: Counter[str] = Counter()

    def due(chats: int) -> None:
        display.reset(task, total=chats, description="sharing")

    def answered(answer: Answer, _seconds: float) -> None:
        outcomes[answer.outcome] += 1
        if answer.outcome is not Outcome.SHARED:
            reasons[_reason(answer)] += 1
        speed = display.tasks[0].speed
        display.update(task, advance=1, rate=f"{speed:,.1f}/s" if speed else "")

    def rendered() -> Group:
        return Group(display, *(Text(line) for line in reason_lines(reasons)))

    with Live(get_renderable=rendered, console=console, transient=True, redirect_stdout=False):
        yield Watch(due=due, answered=answered)
    for line in reason_lines(reasons):
        sys.stderr.write(f"{line}\n")


def reason_lines(reasons: Counter[str]) -> Iterator[str]:
    """The most frequent reasons why requests were no share, with their counts."""
    for reason, count in reasons.most_common(REASONS_SHOWN):
        yield f"  {count:,} x {reason}"
    if len(reasons) > REASONS_SHOWN:
        yield f"  and {len(reasons) - REASONS_SHOWN:,} other reasons"


def _reason(answer: Answer) -> str:
    number = "/".join(str(part) for part in (answer.http_status, answer.error_code) if part)
    return one_line(" ".join(part for part in (answer.outcome.value, number, answer.error_message) if part), 100)
