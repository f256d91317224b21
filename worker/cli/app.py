"""The command that all others hang on."""

import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from worker import __version__

ORDER = (
    *("run", "serve", "rerun"),
    *("explain", "attempts", "runs", "status"),
    *("pause", "resume", "chats", "cards", "webhooks", "prune"),
    *("check", "migrate", "simulator", "demo"),
)
"""The order of the first help: what is done daily, looked at, changed, set up."""


class InOrder(TyperGroup):
    """Lists the commands in their order; Typer's own is that of the imports."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override] # typer's click is private to it
        """The names of the commands."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="share-worker",
    cls=InOrder,
    help="Shares Linq contact cards into iMessage chats: at most once per chat per day, with a ledger.",
    epilog="Start with 'share-worker demo': it needs no key and no settings. Settings: the environment, or .env.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"share-worker {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass
