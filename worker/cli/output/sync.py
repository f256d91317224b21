"""The output of `share-worker chats sync`: how far it is, what it did. No database, no HTTP."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.chats.sync import Synced, counts
from worker.cli.output.printing import count_lines
from worker.wording.passes import Row


def synced_lines(done: Synced, *, requests: int, seconds: float) -> Iterator[str]:
    """What a sync did, for people; the counts add up to the chats that were read."""
    ended = "complete" if done.complete else "incomplete"
    yield f"Sync from Linq: {ended}, {requests:,} requests in {seconds:.1f} s"
    yield ""
    rows: list[Row] = [
        ("new", done.new, "not in the table before"),
        ("changed", done.changed, f"{done.back:,} of them were missing, and are back" if done.back else ""),
        ("unchanged", done.unchanged, "the table says the same, or something newer"),
    ]
    if done.skipped:
        rows.append(("skipped", done.skipped, "no line of the account is active in them; not added"))
    if done.failed:
        rows.append(("failed", done.failed, "could not be read; the next sync tries again"))
    yield from count_lines([*rows, ("chats", done.chats, "")])
    if done.missing or done.unconfirmed:
        yield ""
        gone: list[Row] = [("missing", done.missing, "in the table, but Linq has no such chat any more")]
        if done.unconfirmed:
            gone.append(("unconfirmed", done.unconfirmed, "not listed by Linq; the next sync asks for them"))
        yield from count_lines(gone)


def synced_document(done: Synced, *, requests: int, seconds: float) -> dict[str, object]:
    """What a sync did, for machines."""
    how = {"complete": done.complete, "reason": done.reason}
    return how | counts(done) | {"requests": requests, "seconds": round(seconds, 3)}


@contextmanager
def progress(done: Synced, total: int, *, shown: bool) -> Iterator[Callable[[], None]]:
    """A bar on stderr while the block lasts, if `shown`; what it yields is to be called as chats are read.

    `total`: how many chats the table has, as Linq does not say how many there are.
    """
    if not shown:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as display:
        task = display.add_task("syncing", total=total or None)

        def show() -> None:
            display.update(task, completed=min(done.chats, total), description=f"syncing, {done.chats:,} chats")

        yield show
