"""The commands around Linq's webhooks: `webhooks subscribe`, `webhooks list`, `webhooks delete`."""

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.app import app
from worker.cli.shell import Json, Yes, confirm, done, finish, line_numbers, read_settings
from worker.errors import UsageError, WorkerError

if TYPE_CHECKING:
    from worker.linq.answers import Subscription
    from worker.linq.client import Linq
    from worker.settings import Settings

webhooks = typer.Typer(
    name="webhooks",
    help="Let Linq send its events to the worker, and see where it sends them.",
    epilog="Example: share-worker webhooks list",
    no_args_is_help=True,
)
app.add_typer(webhooks)


@webhooks.command(epilog="Example: share-worker webhooks subscribe https://worker.example.com/webhooks/linq")
def subscribe(
    url: Annotated[str, typer.Argument(metavar="URL", help="The https:// URL under which Linq reaches 'serve'.")],
    line: Annotated[
        list[str] | None,
        typer.Option("--line", metavar="+NUMBER", help="Only events of this line; may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Let Linq send the events that the worker reads to a URL, and print the signing secret, once.

    The URL gets ?version=2026-02-03, the payload version that the worker reads. Linq shows the secret only now: set it
    as LINQ_WEBHOOK_SECRET where 'serve' runs. Linq takes a URL once per account.

    Exit code 0: subscribed. 1: it is not, and the output says why and what to do. 2: wrong usage.
    """
    from worker.linq.subscriptions import target_url

    finish(_subscribe(read_settings(default_level="warning"), target_url(url), line_numbers(line or []), as_json=json))


@webhooks.command(name="list", epilog="Example: share-worker webhooks list")
def list_(json: Json = False) -> None:
    """Show the account's webhook subscriptions, and which of the worker's events one lacks.

    Those of other programs are shown too. Linq does not show their secrets again.
    """
    finish(_list(read_settings(default_level="warning"), as_json=json))


@webhooks.command(epilog="Example: share-worker webhooks delete 6a1f0f0e-0000-4000-8000-000000000001")
def delete(
    subscription_id: Annotated[str, typer.Argument(metavar="ID", help="The subscription; 'webhooks list' shows ids.")],
    *,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """End a webhook subscription: Linq sends nothing to its URL any more. Shows it and asks first.

    Exit code 0: done. 1: you said no, or Linq did. 2: wrong usage, an unknown id included.
    """
    settings = read_settings(default_level="warning")
    found = done(_find(settings, subscription_id))
    question = f"Delete {found.id}? Linq then sends nothing to {_url(found)} for it ({_lines(found)})."
    if not confirm(question, yes=yes, has_dry_run=False):
        msg = "nothing was deleted"
        raise WorkerError(msg)
    finish(_delete(settings, found, as_json=json))


async def _subscribe(settings: "Settings", url: str, numbers: list[str], *, as_json: bool) -> int:
    from worker import assembly
    from worker.cli.output import printing
    from worker.clock import SystemClock
    from worker.linq.answers import ChatRefused, LinqError, PerhapsDone
    from worker.linq.webhooks import KINDS

    async with assembly.linq(settings, SystemClock()) as linq:
        try:
            made = await linq.subscribe(url, KINDS, numbers)
        except (ChatRefused, PerhapsDone) as error:
            raise await _not_subscribed(linq, url, error) from error
        except LinqError as error:
            msg = f"not subscribed: {error}"
            raise WorkerError(msg) from error
    if as_json:
        printing.print_json({**_document(made), "signing_secret": made.secret})
        return 0
    printing.print_lines(
        f"Subscribed: {made.id}. Linq sends {len(KINDS)} kinds of events to {_url(made)} ({_lines(made)}).",
        "Its signing secret, which Linq does not show again; set it where 'share-worker serve' runs:",
        f"  LINQ_WEBHOOK_SECRET={made.secret}",
        "Or let LINQ_WEBHOOK_SECRET_FILE name a file that holds it. While an older secret is still in use, set both,",
        "with a comma between them.",
    )
    return 0


async def _not_subscribed(linq: "Linq", url: str, error: "Exception") -> WorkerError:
    """What to tell about a subscription that was refused, or whose answer was lost: is there one for the URL now?"""
    from worker.linq.answers import LinqError, PerhapsDone

    try:
        known = next((one for one in await linq.subscriptions() if one.target_url == url), None)
    except LinqError:
        known = None
    delete = f"share-worker webhooks delete {known.id if known else 'ID'}"
    if isinstance(error, PerhapsDone):
        return WorkerError(
            f"no signing secret came, so the subscription is of no use if it was made: {error}; look for it with "
            f"'share-worker webhooks list', delete it with '{delete}', and subscribe again"
        )
    if known is None:
        return WorkerError(f"not subscribed: {error}")
    return WorkerError(
        f"{url} has a subscription already ({known.id}), and Linq takes a URL once per account; see 'share-worker "
        f"webhooks list', and to subscribe anew, delete it first with '{delete}'"
    )


async def _list(settings: "Settings", *, as_json: bool) -> int:
    from worker.cli.output import printing
    from worker.cli.output.tables import print_columns
    from worker.linq.subscriptions import missing_kinds
    from worker.linq.webhooks import KINDS

    found = await _subscriptions(settings)
    if as_json:
        printing.print_json({"subscriptions": [_document(one) for one in found]})
        return 0
    if not found:
        printing.print_lines("The account has none; 'share-worker webhooks subscribe --help' says how to make one.")
        return 0
    print_columns(
        ("id", "state", "lines", "url"),
        ((one.id, "active" if one.is_active else "not active", _lines(one), _url(one)) for one in found),
    )
    for one in found:
        if missing := missing_kinds(one):
            listed = "all" if len(missing) == len(KINDS) else ", ".join(missing)
            printing.print_lines("", f"{one.id} lacks events that the worker reads: {listed}")
    return 0


async def _find(settings: "Settings", subscription_id: str) -> "Subscription":
    """The subscription with this id.

    Raises:
        UsageError: there is none.
    """
    for one in await _subscriptions(settings):
        if one.id == subscription_id:
            return one
    msg = f"Linq has no webhook subscription {subscription_id!r}; 'share-worker webhooks list' shows them"
    raise UsageError(msg)


async def _subscriptions(settings: "Settings") -> "list[Subscription]":
    from worker import assembly
    from worker.clock import SystemClock
    from worker.linq.answers import LinqError

    try:
        async with assembly.linq(settings, SystemClock()) as linq:
            return await linq.subscriptions()
    except LinqError as error:
        msg = f"the webhook subscriptions could not be read: {error}"
        raise WorkerError(msg) from error


async def _delete(settings: "Settings", found: "Subscription", *, as_json: bool) -> int:
    from worker import assembly
    from worker.cli.output import printing
    from worker.clock import SystemClock
    from worker.linq.answers import LinqError

    try:
        async with assembly.linq(settings, SystemClock()) as linq:
            await linq.unsubscribe(found.id)
    except LinqError as error:
        msg = f"{found.id} may not be deleted; 'share-worker webhooks list' shows whether it is: {error}"
        raise WorkerError(msg) from error
    if as_json:
        printing.print_json({"deleted": _document(found)})
    else:
        printing.print_lines(f"Deleted: {found.id}. Linq sends nothing to {_url(found)} for it any more.")
    return 0


def _document(subscription: "Subscription") -> dict[str, object]:
    """A subscription for machines, without its secret."""
    from worker.linq.subscriptions import missing_kinds

    return {
        "id": subscription.id,
        "target_url": subscription.target_url,
        "is_active": subscription.is_active,
        "lines": list(subscription.lines),
        "events": list(subscription.kinds),
        "missing_events": missing_kinds(subscription),
        "created_at": subscription.created_at,
        "updated_at": subscription.updated_at,
    }


def _url(subscription: "Subscription") -> str:
    from worker.text import one_line

    return one_line(subscription.target_url) or "no URL"


def _lines(subscription: "Subscription") -> str:
    from worker.text import one_line

    return one_line(", ".join(subscription.lines)) or "all lines"
