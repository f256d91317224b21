"""The commands around the passes: `migrate` before the first one, `simulator` and `demo` to try it all."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.app import app
from worker.cli.shell import finish, read_settings, stop_on_signals
from worker.errors import UsageError, WorkerError

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.simulator.account import Account
    from worker.simulator.chats import Chat


@app.command(epilog="Example: DATABASE_URL=postgresql://worker@db/linq share-worker migrate")
def migrate() -> None:
    """Bring the database's tables up to date. Makes the SQLite file if there is none; safe to run twice at once."""
    finish(_migrate(read_settings()))


@app.command(epilog="Example: share-worker simulator --port 8090 --chats 1000 --fill")
def simulator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 takes a free one.")] = 8090,
    chats: Annotated[int, typer.Option(min=0, max=1_000_000, help="How many chats the simulated account has.")] = 1000,
    fill: Annotated[
        bool,
        typer.Option("--fill", help="Also write these chats into the table 'chats' of DATABASE_URL, if it is empty."),
    ] = False,
    latency: Annotated[int, typer.Option(min=0, max=60_000, metavar="MS", help="Milliseconds before each answer.")] = 0,
    activation: Annotated[
        int, typer.Option(min=0, max=3600, metavar="SECONDS", help="How long a card that is created stays inactive.")
    ] = 0,
) -> None:
    """Serve a stand-in for Linq's API on this machine, to try the worker against. Ends with Ctrl-C.

    Follows Linq's rules (cards, opt-outs, one share per chat in five minutes), counts the share requests, and can be
    told to misbehave: see docs/simulator.md. Nothing it does leaves this machine.
    """
    settings = read_settings() if fill else None
    finish(_simulator(settings, port=port, chats=chats, latency=latency, activation=activation))


@app.command(epilog="Example: share-worker demo --folder ./share-worker-demo")
def demo(
    folder: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Where to put the SQLite file; a new temporary folder if not given."),
    ] = None,
) -> None:
    """Show the whole worker at work, in a quarter of a minute: no key, no settings, nothing leaves this machine.

    Starts a simulated Linq, reads its chats into a new SQLite file, and shares. On the way one worker is killed, one
    loses an answer, and two start at once. At the end Linq's own count says whether anybody was shared with twice.

    The SQLite file stays, and the last lines say where; Ctrl-C removes it. Exit code 0: nobody was shared with twice.
    1: somebody was, or the demo could not be shown to its end, and says why. 2: wrong usage.
    """
    finish(_demo(folder))


async def _migrate(settings: "Settings") -> int:
    from worker import assembly, db
    from worker.cli.output import printing

    async with assembly.engine(settings, create=True) as engine:
        changed = await db.migrate(engine)
    state = "is now" if changed else "was already"
    printing.print_lines(f"The schema of {db.shown(assembly.database_url(settings))} {state} at revision {db.HEAD}.")
    return 0


async def _demo(folder: Path | None) -> int:
    stop = stop_on_signals(announces=False)
    from worker.cli.demo import show

    return await show(folder, stop=stop)


def _some(account: "Account") -> "Iterator[Chat]":
    """A few chats of a simulated account, to know it by: the same number of chats makes the same ones."""
    return itertools.islice(account.chats.values(), 3)


async def _simulator(settings: "Settings | None", *, port: int, chats: int, latency: int, activation: int) -> int:
    from worker import assembly, db
    from worker.chats.facts import add_chats, count_chats, has_chat
    from worker.cli.demo import known_chats
    from worker.cli.output import printing
    from worker.simulator.account import Account
    from worker.simulator.faults import Fault
    from worker.simulator.population import populate
    from worker.simulator.server import serving

    stop = stop_on_signals()
    account = Account(activation_delay=activation)
    populate(account, chats=chats)
    if latency:
        account.add_fault(Fault(path="*", delay_seconds=latency / 1000))
    if settings is not None:
        async with assembly.engine(settings, create=True) as engine:
            await db.migrate(engine)
            async with db.write(engine) as connection:
                present = await count_chats(connection)
                ours = [await has_chat(connection, chat.id) for chat in _some(account)]
                if present and not (present == chats and all(ours)):
                    msg = f"{db.shown(engine.url)} has {present:,} other chats; --fill is for an empty table"
                    raise UsageError(msg)
                await add_chats(connection, known_chats(account))
        printing.print_lines(f"The table 'chats' of {db.shown(engine.url)} holds these {chats:,} chats.")
    try:
        async with serving(account, port=port) as base_url:
            printing.print_lines(
                f"A simulated Linq with {chats:,} chats answers on {base_url}. Try the worker against it:",
                f"  export LINQ_BASE_URL={base_url} LINQ_API_KEY={account.api_key}",
                "  share-worker check",
                f"What it was asked to share: curl {base_url}/_simulator/shares. Ctrl-C ends it.",
            )
            await stop.wait()
    except OSError as error:
        msg = f"the simulator {error.strerror}"
        raise WorkerError(msg) from error
    calls = len(account.share_calls)
    printing.print_lines(
        f"It got {calls:,} share requests; {len(account.repeated_calls()):,} chats were shared with twice in a day."
    )
    return 0
