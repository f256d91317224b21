"""The commands around contact cards: `cards list`, `cards create`, `cards update`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from worker.cli.app import app
from worker.cli.shell import Json, complain, finish, read_lines, read_settings, stop_on_signals
from worker.errors import PartlyDone, UsageError, WorkerError

if TYPE_CHECKING:
    from worker.account import Card
    from worker.clock import Clock
    from worker.linq.card_writer import Fields, Verb
    from worker.questions.lines import ListedLine
    from worker.settings import Settings

cards = typer.Typer(
    name="cards",
    help="Look at the account's contact cards, create and update them.",
    epilog="Example: share-worker cards list",
    no_args_is_help=True,
)
app.add_typer(cards)

Number = Annotated[
    str, typer.Argument(metavar="+NUMBER", help="The line, with its country code; spaces and dashes do no harm.")
]
LastName = Annotated[str | None, typer.Option(metavar="NAME", help="The last name.")]
ImageUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="An https:// URL of the image; Linq keeps its own copy.")
]


@cards.command(name="list", epilog="Example: share-worker cards list")
def list_(json: Json = False) -> None:
    """Show each card as Linq has it now, how many chats depend on it, and which lines rest.

    Lines that have chats but no card are shown too. Without the database the chats are not counted.
    """
    finish(_list(read_settings(default_level="warning"), as_json=json))


@cards.command(
    epilog="Example: share-worker cards create '+1 415 555 0100' --first-name Acme --last-name Support "
    "--image-url https://example.com/logo.png"
)
def create(
    number: Number,
    first_name: Annotated[str, typer.Option(metavar="NAME", help="The first name, or all of it.")],
    last_name: LastName = None,
    image_url: ImageUrl = None,
    json: Json = False,
) -> None:
    """Create a line's card, and wait until it is active: a minute at most.

    Also for a line whose card is not active: the new one takes its place. Where one is active, use 'update'. Linq takes
    three creations and updates a line in ten minutes; one that it did not complete (2022) is tried again within these.
    Creating a card shares it with nobody.

    Exit code 0: the card is active. 1: it is not, and the output says why and what to do. 2: wrong usage.
    """
    from worker.linq.card_writer import fields

    wanted = fields(number, first_name=first_name, last_name=last_name, image_url=image_url)
    _write("create", number, wanted, as_json=json)


@cards.command(epilog="Example: share-worker cards update +14155550100 --image-url https://example.com/new.png")
def update(
    number: Number,
    *,
    first_name: Annotated[str | None, typer.Option(metavar="NAME", help="The first name.")] = None,
    last_name: LastName = None,
    image_url: ImageUrl = None,
    no_image: Annotated[bool, typer.Option("--no-image", help="Remove the image.")] = False,
    json: Json = False,
) -> None:
    """Change a line's active card; what is not given stays as it is.

    Linq updates only an active card; for another one use 'create'. Linq takes three creations and updates a line in ten
    minutes; one that it did not complete (2022) is tried again within these.

    Exit code 0: the card is changed and active. 1: it is not, and the output says why and what to do. 2: wrong usage.
    """
    from worker.linq.card_writer import fields

    if first_name is None and last_name is None and image_url is None and not no_image:
        msg = "nothing to update; give --first-name, --last-name, --image-url or --no-image"
        raise UsageError(msg)
    wanted = fields(number, first_name=first_name, last_name=last_name, image_url=image_url, removes_image=no_image)
    _write("update", number, wanted, as_json=json)


def _write(verb: "Verb", number: str, wanted: "Fields", *, as_json: bool) -> NoReturn:
    if wanted.phone_number != number:
        complain(f"{number!r} is {wanted.phone_number}")
    finish(_written(read_settings(default_level="warning"), verb, wanted, as_json=as_json))


async def _written(settings: "Settings", verb: "Verb", wanted: "Fields", *, as_json: bool) -> int:
    from worker import assembly
    from worker.cli.output import printing
    from worker.clock import SystemClock
    from worker.linq.card_writer import CardWriter

    clock = SystemClock()
    stop = stop_on_signals()
    linq = assembly.linq(settings, clock)
    async with linq:
        writer = CardWriter(linq=linq, clock=clock, stop=stop, say=complain)
        written = await (writer.create(wanted) if verb == "create" else writer.update(wanted))
    if written.card is not None:
        await _note(settings, written.card, clock)
    if as_json:
        printing.print_json(asdict(written))
    elif written.card is not None:
        printing.print_lines(f"{_described(written.card)}: {'active' if written.card.is_active else 'not active'}")
    if written.problem is None:
        return 0
    raise PartlyDone(written.problem + (f"\n{written.advice}" if written.advice else ""))


async def _note(settings: "Settings", card: "Card", clock: "Clock") -> None:
    """Keep what Linq said of a card where the verdict finds it; the next pass would read it anyway."""
    from worker import assembly, db
    from worker.chats import facts

    try:
        async with assembly.database(settings) as engine, db.write(engine) as connection:
            await facts.store_card(connection, card, clock.now())
    except WorkerError as error:
        complain(f"{error} (so the card is not noted there; the next pass reads it from Linq)")


async def _list(settings: "Settings", *, as_json: bool) -> int:
    from worker import assembly, db
    from worker.chats import facts
    from worker.cli.output import printing
    from worker.cli.output.check import resting_findings
    from worker.clock import SystemClock
    from worker.linq.answers import LinqError
    from worker.questions.lines import RestingLine, list_lines, resting_lines
    from worker.rules.eligibility import as_read

    clock = SystemClock()
    try:
        async with assembly.linq(settings, clock) as linq:
            found = await linq.list_cards()
            account_lines = await read_lines(linq)
    except LinqError as error:
        msg = f"the contact cards could not be read: {error}"
        raise WorkerError(msg) from error
    rules = assembly.rules(settings)
    known = as_read({card.phone_number: card.is_active for card in found}, account_lines)
    chats_of, schema = None, None
    resting: list[RestingLine] = []
    try:
        async with assembly.database(settings) as engine:
            schema = db.schema_of(engine.sync_engine)
            async with db.read(engine) as connection:
                chats_of = await facts.chats_per_line(connection)
                resting = await resting_lines(connection, rules, clock.now(), chats_of, known=known)
    except WorkerError as error:
        complain(f"{error} (so the chats are not counted)")
    lines = list_lines(found, chats_of)
    if as_json:
        printing.print_json({"lines": [asdict(line) for line in lines], "resting": [asdict(line) for line in resting]})
        return 0
    _print(lines, schema)
    for finding in resting_findings(resting, rules.timezone):
        printing.print_lines("", finding.found)
    return 0


def _print(lines: "list[ListedLine]", schema: str | None) -> None:
    from worker.cli.output import printing
    from worker.cli.output.check import wrong_number_text
    from worker.cli.output.tables import print_columns
    from worker.linq.card_writer import repair
    from worker.questions.check import wrong_numbers
    from worker.text import chat_count, one_line

    print_columns(
        ("line", "card", "chats", "name", "image"),
        (
            (
                line.phone_number,
                "none" if line.card is None else "active" if line.card.is_active else "not active",
                "?" if line.chats is None else f"{line.chats:,}",
                _name(line.card) if line.card else "",
                one_line(line.card.image_url or "") if line.card else "",
            )
            for line in lines
        ),
        right=("chats",),
    )
    if not lines:
        printing.print_lines(
            "The account has no contact cards; 'share-worker cards create --help' says how to make one."
        )
    chats_of = {line.phone_number: line.chats for line in lines if line.chats}
    wrong = {number.written: number for number in wrong_numbers(chats_of, [line.card for line in lines if line.card])}
    for number in wrong.values():
        printing.print_lines("", wrong_number_text(number, schema))
    for line in lines:
        if line.chats and line.phone_number not in wrong and not (line.card and line.card.is_active):
            have = f"{line.phone_number} has {chat_count(line.chats)} and no active card"
            printing.print_lines("", f"{have}. To make it one:")
            printing.print_lines(f"  {repair(line.phone_number, line.card)}")


def _described(card: "Card") -> str:
    return f"{card.phone_number} ({_name(card)})"


def _name(card: "Card") -> str:
    from worker.text import one_line

    return one_line(" ".join(part for part in (card.first_name, card.last_name) if part)) or "no name"
