"""The command `chats restore`: forget what Linq once said of chats."""

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.chats import chats
from worker.cli.shell import (
    Json,
    OfLine,
    Yes,
    chat_ids,
    confirm,
    done,
    finish,
    line_numbers,
    os_user,
    quiet_on_a_terminal,
    read_settings,
)
from worker.errors import UsageError, WorkerError

if TYPE_CHECKING:
    from worker.chats.restore import RestoreFilter
    from worker.settings import Settings


@chats.command(epilog="Example: share-worker chats restore --missing")
def restore(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="CHAT_ID", help="The chats; '-' reads ids from stdin, one a line.")
    ] = None,
    *,
    missing: Annotated[bool, typer.Option("--missing", help="Forget that Linq has no such chat (2001, 2013).")] = False,
    opted_out: Annotated[
        bool, typer.Option("--opted-out", help="Forget that the recipient opted out (2024, sync, webhook).")
    ] = False,
    line: OfLine = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Forget what Linq once said of chats, so that they are judged anew.

    After a wrong key, for example, whose account did not have the chats. Without --missing and --opted-out it forgets
    both. Says how many chats it concerns, and asks. Attempts and pauses stay as they are: a chat that was attempted
    today is not shared with again today.

    Exit code 0: done. 1: you said no. 2: wrong usage.
    """
    from worker.chats.restore import RestoreFilter

    if not (ids or missing or opted_out or line):
        msg = "say which chats to restore: their ids, --missing, --opted-out, or --line +NUMBER"
        raise UsageError(msg)
    wanted = RestoreFilter(
        chat_ids=chat_ids(ids or []),
        lines=line_numbers(line or []),
        missing=missing or not opted_out,
        opted_out=opted_out or not missing,
    )
    settings = read_settings(default_level=quiet_on_a_terminal())
    counts = done(_count(settings, wanted))
    if any(counts.values()) and not confirm(f"Restore them? {_marked(counts)}.", yes=yes, has_dry_run=False):
        msg = "nothing was changed"
        raise WorkerError(msg)
    finish(_restore(settings, wanted, counts, as_json=json))


def _marked(counts: dict[str, int]) -> str:
    words = {"missing_at": "marked as missing", "opted_out_at": "marked as opted out"}
    return ", ".join(f"{count:,} {words[name]}" for name, count in counts.items())


async def _count(settings: "Settings", wanted: "RestoreFilter") -> dict[str, int]:
    from worker import assembly, db
    from worker.chats.restore import count_marked

    async with assembly.database(settings) as engine, db.read(engine) as connection:
        return await count_marked(connection, wanted)


async def _restore(settings: "Settings", wanted: "RestoreFilter", counts: dict[str, int], *, as_json: bool) -> int:
    import structlog

    from worker import assembly, db
    from worker.chats import restore as chats_restore
    from worker.cli.output import printing
    from worker.clock import SystemClock

    async with assembly.database(settings) as engine, db.write(engine) as connection:
        restored = await chats_restore.restore(connection, wanted, SystemClock().now())
    if restored:
        structlog.get_logger(__name__).info("chats.restored", chats=restored, by=os_user(), **counts)
    if as_json:
        printing.print_json({"restored": restored, **counts})
    else:
        printing.print_lines(f"{restored:,} chats restored: {_marked(counts)}.")
    return 0
