"""`chats import`, `chats export`, `chats list`: files as spreadsheets write them, bad lines, what the table becomes."""

import asyncio
import contextlib
import json
import re
import shlex
import signal
import stat
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO, RawIOBase
from itertools import chain, islice
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.commands import ROOT, Ended, fed, one_line, seen, share_worker, start_program
from tests.conftest import START
from tests.databases import sqlite_only
from tests.examples import bounded
from tests.scene import LINE
from worker import db
from worker.account import Card
from worker.chats import facts, files, imports
from worker.chats.files import BadLine, ByteStream, Record, read_records
from worker.chats.formats import FileFormat
from worker.chats.imports import Imported, import_chats
from worker.chats.rows import COLUMNS, UNREADABLE, BadValueError, row_of
from worker.db.tables import chats
from worker.errors import UsageError
from worker.questions.chat_list import EXPORTED

OTHER = "+15550100002"
HOUR = timedelta(hours=1)
HEAD = "id,from_number,service,is_group,last_outbound_at,last_inbound_at,health_status,handle"
CHAT = f"chat,{LINE},iMessage,false,2026-03-10T07:00:00Z,2026-03-10T08:00:00Z,HEALTHY,+14155550100"
some = bounded(15)


@pytest.fixture
def where(database_url: str) -> dict[str, str]:
    return {"DATABASE_URL": database_url}


async def rows(engine: AsyncEngine, *columns: str) -> dict[str, list[object]]:
    """The table: of each chat these columns."""
    async with db.read(engine) as connection:
        found = await connection.execute(select(chats.c.id, *(chats.c[name] for name in columns)).order_by(chats.c.id))
        return {chat_id: values for chat_id, *values in found}


async def put(engine: AsyncEngine, chat_id: str, **values: object) -> None:
    async with db.write(engine) as connection:
        await connection.execute(
            insert(chats).values({"from_number": LINE, "updated_at": START} | values | {"id": chat_id})
        )


async def imported(content: str, where: dict[str, str], *words: str) -> Ended:
    return await fed(content.encode(), "chats", "import", "-", *words, **where)


def counts(ended: Ended) -> dict[str, int]:
    document = json.loads(ended.out)
    return {name: document[name] for name in ("new", "changed", "unchanged", "repeated", "bad", "lines")}


# What is read


TABLE = '''id;from_number;service;handle
"one";+1 (555) 010-0001;IMESSAGE;"Zoë; ""Z"""

two;+15550100001;;
;;;
'''


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        TABLE.replace("\n", "\r\n").encode("utf-8-sig"),
        TABLE.encode("utf-16"),
        TABLE.replace(";", "\t").replace("Zoë\t", "Zoë;").encode(),
        TABLE.replace(";", ",").replace("Zoë,", "Zoë;").rstrip().replace("\n", "\r").encode(),
    ],
    ids=["plain", "excel", "utf-16", "tabs", "commas"],
)
@sqlite_only
async def test_csv_is_read_as_spreadsheets_write_it(engine: AsyncEngine, where: dict[str, str], content: bytes) -> None:
    Path("chats.csv").write_bytes(content)
    ended = await share_worker("chats", "import", "chats.csv", **where)
    assert ended.code == 0, ended.err
    assert await rows(engine, "from_number", "service", "handle") == {
        "one": [LINE, "iMessage", 'Zoë; "Z"'],
        "two": [LINE, None, None],
    }


def read(content: bytes, form: FileFormat | None = None) -> list[Record | BadLine]:
    return list(read_records(ByteStream(BytesIO(content), "chats.csv"), form))


def test_a_quoted_newline_belongs_to_its_cell_and_lines_keep_their_numbers() -> None:
    found = read(b'\nid,from_number\n"a\r\nb\n\nc",+1\n\n"d",+2\n')
    assert found == [
        Record(line=3, values={"id": "a\r\nb\n\nc", "from_number": "+1"}),
        Record(line=8, values={"id": "d", "from_number": "+2"}),
    ]


@pytest.mark.parametrize(
    ("bad", "sign"),
    [
        ('b,"+2', "the quotes do not match"),
        ('b,"+2"3', "the quotes do not match"),
        ('"b" ,+2', "the quotes do not match"),
        ("b", "1 cell, but the header has 2 columns"),
        ("b,+2,x", "3 cells, but the header has 2 columns"),
        (f"b,{'x' * 140_000}", "a cell has more than 131,072 characters"),
        (f"b,{'x' * files.LONGEST_LINE}", "longer than 1,000,000 characters"),
        (f'b,"{"x" * files.LONGEST_LINE}', "longer than 1,000,000 characters"),
    ],
)
def test_a_line_that_cannot_be_read_costs_no_other_one(bad: str, sign: str) -> None:
    more = [f'"c{number}","+{number}"' for number in range(1, 3000)]
    first, broken, *others = read("\n".join(["id,from_number", "a,+1", bad, *more]).encode())
    assert first == Record(line=2, values={"id": "a", "from_number": "+1"})
    assert isinstance(broken, BadLine)
    assert (broken.line, sign in broken.message) == (3, True), broken
    assert [(record.line, isinstance(record, Record)) for record in others] == [(line, True) for line in range(4, 3003)]


def test_a_quote_that_is_never_closed_costs_its_own_line() -> None:
    found = read(b'id,from_number\na,"+1\n' + b"b,+2\n" * 2000)
    assert [type(record) for record in found] == [BadLine] + [Record] * 2000
    assert [record.line for record in found] == list(range(2, 2003))


def test_the_first_character_tells_the_form_where_nothing_else_does() -> None:
    line = b'{"id": "a", "From_Number": "+1", "is_group": true}'
    told = Record(line=1, values={"id": "a", "from_number": "+1", "is_group": True})
    assert read(b"\xef\xbb\xbf" + line) == read(line) == [told]
    assert read(b" \n\n" + line + b'\n\n[]\n{\n"x"')[1:] == [
        BadLine(line=5, reason="not a JSON object", message="'[]' is not a JSON object"),
        BadLine(line=6, reason="not JSON", message="'{' is not a JSON object"),
        BadLine(line=7, reason="not a JSON object", message="""'"x"' is not a JSON object"""),
    ]


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
@example(b"[" * 100_000)
@example(b'id,from_number\n"')
@example(b"\xff\xfeid,")
@example(b'{"id": "\\ud800", "from_number": 1e999, "is_group": NaN}')
@example(b'{"id": ' + b"9" * 5000 + b"}")
def test_any_bytes_are_chats_or_bad_lines_or_one_line_for_a_person(content: bytes) -> None:
    for form in FileFormat:
        for begin in (b"", b"id,from_number,is_group,handle,last_inbound_at\n"):
            found: list[Record | BadLine] = []
            with contextlib.suppress(UsageError):
                found = read(begin + content, form)
            assert [record.line for record in found] == sorted({record.line for record in found})
            for record in found:
                if isinstance(record, Record):
                    with contextlib.suppress(BadValueError):
                        assert "\0" not in str(row_of(record.values, START)).encode().decode()


class Growing(RawIOBase):
    """A file of so many lines that is written while it is read."""

    def __init__(self, first: bytes, count: int) -> None:
        self._parts = chain([first], (b"%d,+15550100001,%s\n" % (number, b"x" * 200) for number in range(count)))

    def read(self, size: int = -1) -> bytes:
        return b"".join(islice(self._parts, size // 300))


def test_memory_stays_flat_however_long_the_file_is() -> None:
    found = read_records(ByteStream(Growing(b"id,from_number,handle\n", 60_000), "chats.csv"), FileFormat.CSV)
    next(found)
    tracemalloc.start()
    try:
        count = sum(1 for _ in found)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 59_999
    assert peak < 1_000_000


# What is refused


@pytest.mark.parametrize(
    ("column", "written", "message"),
    [
        ("id", "", "id is empty"),
        ("id", " x", "id is ' x', with blanks around it"),
        ("id", "x\ty", r"id is 'x\ty', with characters that cannot be printed"),
        ("id", "x" * 501, "id has 501 characters; at most 500 are possible"),
        ("id", "caf\ufffd", "id is 'caf\ufffd', which could not be decoded; save the file as UTF-8"),
        ("from_number", " ", "from_number is empty"),
        (
            "from_number",
            "4155550100",
            "from_number '4155550100' has no country code; begin it with + and the code, such as +14155550100",
        ),
        ("from_number", "1.5550100001E+10", "from_number '1.5550100001E+10' is not a phone number"),
        ("service", "iMesage", "service is 'iMesage'; it must be iMessage, SMS, RCS or empty"),
        ("is_group", "maybe", "is_group is 'maybe'; it must be true or false"),
        ("last_outbound_at", "10.03.2026 07:30", "last_outbound_at is '10.03.2026 07:30', which is not a time"),
        (
            "last_outbound_at",
            "2026-03-10T09:36:00Z",
            "last_outbound_at is '2026-03-10T09:36:00Z', which is in the future",
        ),
        ("last_inbound_at", "0001-01-01 00:00:00", "which is before 2000; leave it empty where no message is known"),
        ("handle", "x" * 501, "handle has 501 characters"),
        ("health_status", ["OPTED_OUT"], "health_status is ['OPTED_OUT']; it must be a text"),
        ("id", 17, "id is the number 17; write it in quotes"),
        ("last_inbound_at", 1773127815, "last_inbound_at is 1773127815; it must be a text"),
    ],
)
def test_a_value_that_cannot_be_taken_is_refused_with_the_reason(column: str, written: object, message: str) -> None:
    with pytest.raises(BadValueError, match=column) as refused:
        row_of({"id": "x", "from_number": LINE, column: written}, START)
    assert message in str(refused.value)


@sqlite_only
async def test_bad_lines_are_named_and_counted_and_the_good_ones_are_in(
    engine: AsyncEngine, where: dict[str, str]
) -> None:
    bad = ["", f",{LINE}"] * 12 + [f"x,{LINE},Fax"] * 3
    lines = ["id,from_number,service", f"a,{LINE},SMS", *(f"{line}{',' * (2 - line.count(','))}" for line in bad)]
    ended = await imported("\n".join([*lines, f"b,{LINE},"]), where)
    assert ended.code == 1
    said = [line.removeprefix("share-worker: ") for line in ended.err.splitlines() if line.startswith("share-worker: ")]
    assert said[:2] == ["line 4: id is empty", "line 6: id is empty"]
    assert said[12] == "line 27: service is 'Fax'; it must be iMessage, SMS, RCS or empty"
    assert said[15:] == ["15 of 17 lines are bad; the others are in"]
    assert [line.split()[:2] for line in ended.out.splitlines()] == [
        ["new", "2"],
        ["changed", "0"],
        ["unchanged", "0"],
        ["bad", "15"],
        ["lines", "17"],
    ]
    assert list(await rows(engine)) == ["a", "b"]
    many = await imported("id,from_number\n" + f",{LINE}\n" * 30 + "c,5550100001\n" * 2, where)
    assert [line for line in many.err.splitlines() if "more" in line] == [
        "share-worker: and 12 more bad lines (id is empty: 10; from_number is not a phone number: 2)"
    ]
    document = json.loads((await imported("id,from_number\nc,5550100001\n", where, "--json")).out)
    assert document["bad_lines"] == [
        {
            "line": 2,
            "reason": "from_number is not a phone number",
            "message": "from_number '5550100001' has no country code;"
            " begin it with + and the code, such as +14155550100",
        }
    ]


@pytest.mark.parametrize(
    ("content", "sign"),
    [
        (b"", "chats.csv is empty; its first line must name the columns: id, from_number, ..."),
        (b'"id\n', "the first line of chats.csv is no header"),
        (b"a;+15550100001\nb;+15550100001\n", "chats.csv has unknown columns: 'a', '+15550100001'; rename or"),
        (b"id,form_number\n", "chats.csv has an unknown column: 'form_number' (did you mean from_number?); rename or"),
        (b"chat_id,line\n", "'chat_id' (did you mean id?), 'line' (did you mean from_number?)"),
        (b"id,service\n", "the first line of chats.csv must name the columns, and lacks from_number"),
        (b"id,from_number,ID\n", "chats.csv has the column id twice"),
        (b"id\0from_number", "chats.csv is not text; it must be CSV or JSON Lines, in UTF-8"),
        (b"PK\x03\x04", "chats.csv is a zip archive, such as an Excel workbook; save it as CSV first"),
    ],
)
@sqlite_only
async def test_a_file_without_a_proper_header_is_refused_in_one_line(
    engine: AsyncEngine, where: dict[str, str], content: bytes, sign: str
) -> None:
    Path("chats.csv").write_bytes(content + b"\n" * bool(content))
    assert sign in one_line(await share_worker("chats", "import", "chats.csv", **where), 2)
    assert await rows(engine) == {}


@pytest.mark.parametrize(
    ("words", "code", "sign"),
    [
        (["import", "none.csv"], 2, "none.csv cannot be read: No such file or directory"),
        (["import", ".", "--format", "csv"], 2, ". is a directory"),
        (["import", "worker.db"], 2, "the name worker.db does not say what form the file has; add --format csv or"),
        (["import", "worker.db", "--format", "csv"], 2, "worker.db is a SQLite database; docs/chats.md has the SQL"),
        (["export", "chats.xlsx"], 2, "the name chats.xlsx does not say what form the file has"),
        (["export", "none/chats.csv"], 1, "none/chats.csv cannot be written: No such file or directory"),
        (["export", ".", "--format", "csv"], 1, ". cannot be written: Is a directory"),
        (["export", "/dev/full", "--format", "csv"], 1, "/dev/full cannot be written: No space left on device"),
        (["list", "--verdict", "dued"], 2, "'dued' is not a verdict; it must be one of paused, missing,"),
        (["list", "--line", "5550100001"], 2, "'5550100001' has no country code"),
    ],
)
@sqlite_only
async def test_what_cannot_be_done_is_said_in_one_line(
    where: dict[str, str], words: list[str], code: int, sign: str
) -> None:
    assert sign in one_line(await share_worker("chats", *words, **where), code)
    assert [path.name for path in Path.cwd().iterdir() if path.suffix not in {".db", ".db-wal", ".db-shm"}] == []


# What becomes of the table


async def test_what_a_file_says_is_brought_in_and_what_it_does_not_say_stays(
    engine: AsyncEngine, where: dict[str, str]
) -> None:
    await put(engine, "chat", service="SMS", is_group=True, paused_at=START, opted_out_at=START, handle="x")
    await put(engine, "same", service="iMessage")
    head = "id,from_number,service,is_group,health_status"
    content = f"{head}\nchat,{OTHER},imessage,,\nnew,{LINE},,,\nsame,{LINE},iMessage,,\n"
    dry = await imported(content, where, "--dry-run", "--json")
    assert (await rows(engine, "from_number"))["chat"] == [LINE], "a dry run writes nothing"
    ended = await imported(content, where, "--json")
    assert counts(dry) == counts(ended) == {"new": 1, "changed": 1, "unchanged": 1, "repeated": 0, "bad": 0, "lines": 3}
    columns = ("from_number", "service", "is_group", "health_status", "handle", "paused_at", "opted_out_at")
    assert await rows(engine, *columns) == {
        "chat": [OTHER, "iMessage", True, None, "x", START, START],
        "new": [LINE, None, False, None, None, None, None],
        "same": [LINE, "iMessage", False, None, None, None, None],
    }
    changed = await rows(engine, "updated_at")
    assert changed["same"] == [START]
    assert changed["chat"] != [START]


@pytest.mark.parametrize(
    ("known", "told", "kept"),
    [
        (START - HOUR, START, START),
        (START, START - HOUR, START),
        (START, None, START),
        (None, START, START),
        (START + 365 * 24 * HOUR, START, START),  # a clock was wrong
        (None, None, None),
    ],
)
async def test_of_two_times_the_later_one_is_kept_unless_it_is_in_the_future(
    engine: AsyncEngine, where: dict[str, str], known: datetime | None, told: datetime | None, kept: datetime | None
) -> None:
    future = known is not None and known > START
    now = datetime.now(UTC)
    await put(engine, "chat", last_outbound_at=now + 24 * HOUR if future else known, last_inbound_at=known)
    written = told.isoformat() if told else ""
    ended = await imported(f"id,from_number,last_outbound_at\nchat,{LINE},{written}\n", where, "--json")
    assert (await rows(engine, "last_outbound_at", "last_inbound_at"))["chat"] == [kept, known]
    changes = kept != (now + 24 * HOUR if future else known)
    assert (counts(ended)["changed"], counts(ended)["unchanged"]) == (changes, not changes)


async def test_a_time_that_cannot_be_read_is_replaced(engine: AsyncEngine, where: dict[str, str]) -> None:
    await put(engine, "chat")
    written = "'yesterday'" if engine.dialect.name == "sqlite" else "'infinity'"
    async with db.write(engine) as connection:
        await connection.execute(text(f"UPDATE chats SET last_outbound_at = {written}"))  # noqa: S608 -- a test's constants
    assert (await imported(f"{HEAD}\n{CHAT}\n", where)).code == 0
    assert await rows(engine, "last_outbound_at") == {"chat": [datetime(2026, 3, 10, 7, tzinfo=UTC)]}


_moments = st.none() | st.integers(-5, 0).map(lambda hours: (START + hours * HOUR).isoformat())
_lines = st.fixed_dictionaries(
    {"id": st.sampled_from("abc"), "from_number": st.sampled_from([LINE, OTHER])},
    optional={
        "service": st.sampled_from([None, "SMS", "iMessage"]),
        "is_group": st.sampled_from([None, True, False]),
        "last_outbound_at": _moments,
        "last_inbound_at": _moments,
        "health_status": st.sampled_from([None, "OPTED_OUT"]),
    },
)


@some
@given(lines=st.lists(_lines, max_size=12))
async def test_lines_leave_the_same_table_in_one_batch_as_one_by_one(
    engine: AsyncEngine, lines: list[dict[str, object]]
) -> None:
    """And a dry run counts what the import then does."""
    records = [Record(line=number, values=values) for number, values in enumerate(lines, 1)]
    left = []
    for size in (1, 4, 100):
        async with db.write(engine) as connection:
            await connection.execute(delete(chats))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(imports, "BATCH", size)
            for begin, end in ((0, 6), (6, 12)):
                done = [Imported(), Imported()]
                for one, dry_run in zip(done, (True, False), strict=True):
                    await import_chats(
                        engine, records[begin:end], one, now=START, dry_run=dry_run, stop=asyncio.Event()
                    )
                assert size < 6 or done[0] == done[1]  # of several batches, each sees what the one before wrote
                assert done[1].lines == len(records[begin:end])
                assert done[1].complete
        left.append(await rows(engine, *COLUMNS))
    assert left[0] == left[1] == left[2]


async def test_an_id_that_comes_again_counts_as_repeated_and_the_later_line_wins(
    engine: AsyncEngine, where: dict[str, str]
) -> None:
    content = f"id,from_number,service\na,{LINE},SMS\nb,{LINE},\na,{OTHER},iMessage\n"
    ended = await imported(content, where, "--json")
    assert counts(ended) == {"new": 2, "changed": 0, "unchanged": 0, "repeated": 1, "bad": 0, "lines": 3}
    assert await rows(engine, "from_number", "service") == {"a": [OTHER, "iMessage"], "b": [LINE, None]}


async def test_the_tables_may_be_in_a_schema_of_their_own(empty_postgresql: str) -> None:
    where = {"DATABASE_URL": empty_postgresql, "DATABASE_SCHEMA": "elsewhere"}
    await share_worker("migrate", **where)
    assert (await imported(f"{HEAD}\n{CHAT}\n", where)).code == 0
    assert counts(await imported(f"{HEAD}\n{CHAT}\n", where, "--json"))["unchanged"] == 1
    assert "chat,+15550100001,iMessage,false,2026-03-10T07" in (await share_worker("chats", "export", **where)).out


# Told to stop, watched


async def test_ctrl_c_ends_an_import_that_waits_for_more_and_what_is_in_stays_in(
    engine: AsyncEngine, where: dict[str, str]
) -> None:
    process = await start_program(["chats", "import", "-"], where, stdin=asyncio.subprocess.PIPE)
    assert process.stdin
    lines = "".join(f"chat-{number:05},{LINE}\n" for number in range(imports.BATCH + 1000))
    process.stdin.write(f"id,from_number\n{lines}".encode())
    await process.stdin.drain()
    while len(await rows(engine)) < imports.BATCH:
        pass
    process.send_signal(signal.SIGINT)
    code = await process.wait()
    assert process.stderr
    err = (await process.stderr.read()).decode()
    assert code == 1
    assert "share-worker: it was told to stop; 5,000 good lines are in, the rest is not; import the file again\n" in err
    assert len(await rows(engine)) == imports.BATCH
    process.stdin.close()


@sqlite_only
async def test_a_bar_is_shown_on_a_terminal_and_nowhere_else(where: dict[str, str]) -> None:
    Path("chats.csv").write_text(f"{HEAD}\n{CHAT}\n")
    assert "importing" in (await seen("chats", "import", "chats.csv", **where)).err
    ended = await share_worker("chats", "import", "chats.csv", **where)
    assert [json.loads(line)["event"] for line in ended.err.splitlines()] == ["chats.imported"]


# Export


@some
@given(
    written=st.lists(
        st.fixed_dictionaries(
            {
                "id": st.text(st.characters(codec="utf-8", exclude_characters=UNREADABLE), min_size=1, max_size=9)
                .filter(str.isprintable)
                .filter(lambda chat_id: chat_id == chat_id.strip()),
                "handle": st.none() | st.sampled_from(['a "b", c', "x;y z", "=1+1"]),
                "paused_reason": st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9),
                "last_outbound_at": st.none() | st.datetimes(datetime(2000, 1, 1), START.replace(tzinfo=None)),  # noqa: DTZ001 -- made UTC below
                "is_group": st.booleans(),
            }
        ),
        max_size=4,
        unique_by=lambda row: row["id"],
    ),
    form=st.sampled_from(FileFormat),
)
@example(
    written=[{"id": "x", "handle": None, "paused_reason": "\r", "last_outbound_at": None, "is_group": True}],
    form=FileFormat.CSV,
)
@sqlite_only
async def test_what_was_exported_can_be_imported_and_is_the_same(
    engine: AsyncEngine, where: dict[str, str], written: list[dict[str, object]], form: FileFormat
) -> None:
    async with db.write(engine) as connection:
        await connection.execute(delete(chats))
    for row in written:
        moment = row["last_outbound_at"]
        aware = moment.replace(tzinfo=UTC) if isinstance(moment, datetime) else None
        await put(engine, **(row | {"chat_id": row["id"], "last_outbound_at": aware}))  # type: ignore[arg-type] # named so
    before = await rows(engine, *COLUMNS)
    file = f"chats.{form}"
    assert (await share_worker("chats", "export", file, **where)).out == f"Exported {len(written):,} chats to {file}.\n"
    exported = read(Path(file).read_bytes(), form)
    assert [
        (record.values["id"], record.values["paused_reason"] or None)
        for record in exported
        if isinstance(record, Record)
    ] == [(row["id"], row["paused_reason"] or None) for row in sorted(written, key=lambda row: str(row["id"]).encode())]
    again = await share_worker("chats", "import", file, "--json", **where)
    assert counts(again)["unchanged"] == counts(again)["lines"] == len(written), again
    async with db.write(engine) as connection:
        await connection.execute(delete(chats))
    assert counts(await share_worker("chats", "import", file, "--json", **where))["new"] == len(written)
    assert await rows(engine, *COLUMNS) == before


async def test_an_export_has_every_column_in_the_order_of_the_ids_and_an_import_says_what_it_ignores(
    engine: AsyncEngine, where: dict[str, str]
) -> None:
    for chat_id in ("b", "B", "a"):
        await put(engine, chat_id, paused_at=START, missing_at=START)
    ended = await share_worker("chats", "export", **where)
    head, *lines = ended.out.splitlines()
    assert head.split(",") == [
        column.name for column in chats.columns if column.name not in {"created_at", "updated_at"}
    ]
    assert [line.split(",")[0] for line in lines] == ["B", "a", "b"]
    assert lines[0] == "B,+15550100001,,false,,,,2026-03-10T09:30:00+00:00,,2026-03-10T09:30:00+00:00,,,,,,"
    async with db.write(engine) as connection:
        await connection.execute(delete(chats))
    said = (await imported(ended.out, where)).err
    assert (
        "share-worker: ignored, as only the worker and its admins write them: card_received_at, health_updated_at,"
        in said
    )
    assert (await rows(engine, "paused_at"))["a"] == [None]
    document = json.loads((await share_worker("chats", "export", "--format", "jsonl", **where)).out.splitlines()[0])
    assert list(document) == list(EXPORTED)


@sqlite_only
async def test_an_export_takes_a_files_place_only_when_it_is_complete(
    engine: AsyncEngine, where: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("chats.csv").write_text("before")
    await put(engine, "chat")
    assert (await share_worker("chats", "export", "chats.csv", **where)).code == 0
    assert Path("chats.csv").read_text().startswith("id,from_number")
    assert stat.S_IMODE(Path("chats.csv").stat().st_mode) == 0o600
    before = Path("chats.csv").read_text()
    async with db.write(engine) as connection:
        await connection.execute(text("DROP TABLE chats"))
    assert (await share_worker("chats", "export", "chats.csv", **where)).code == 1
    assert Path("chats.csv").read_text() == before
    assert list(Path.cwd().glob(".*")) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_whatever_sqlite_keeps_is_exported_and_listed(engine: AsyncEngine, where: dict[str, str]) -> None:
    async with db.write(engine) as connection:
        for chat_id, odd in (("1", "CAST(x'ff' AS TEXT)"), ("2", "x'00ff'"), ("3", "17.5"), ("x'ff'", "'never'")):
            await connection.execute(
                text(
                    "INSERT INTO chats (id, from_number, service, is_group, last_outbound_at, paused_at)"  # noqa: S608 -- a test's constants
                    f" VALUES ({chat_id}, {odd}, {odd}, {odd}, {odd}, {odd})"
                )
            )
    listed = await share_worker("chats", "list", "--json", **where)
    assert [chat["last_outbound_at"] for chat in json.loads(listed.out)["chats"]] == [None] * 4
    exported = await share_worker("chats", "export", **where)
    assert (exported.code, len(exported.out.splitlines())) == (0, 5)
    assert "X'FF'" in exported.out


# List


@pytest.fixture
async def listed(engine: AsyncEngine) -> None:
    """Chats on two lines, of which one has a card."""
    async with db.write(engine) as connection:
        card = Card(phone_number=LINE, first_name="Acme", last_name=None, image_url=None, is_active=True)
        await facts.store_cards(connection, [card], START)
    for number, line in enumerate((LINE, OTHER, LINE, LINE), 1):
        await put(engine, f"chat-{number}", from_number=line, service="iMessage", last_outbound_at=START)
    await put(engine, "chat-5", service="SMS")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], ["chat-1 due", "chat-2 no_card", "chat-3 due", "chat-4 due", "chat-5 not_imessage"]),
        (["--verdict", "due", "--after", "chat-1", "--limit", "1"], ["chat-3 due"]),
        (["--verdict", "no_card", "--verdict", "not_imessage"], ["chat-2 no_card", "chat-5 not_imessage"]),
        (["--line", "+1 (555) 010-0002"], ["chat-2 no_card"]),
        (["--line", LINE, "--line", OTHER, "--verdict", "NO_CARD"], ["chat-2 no_card"]),
    ],
)
async def test_chats_are_listed_by_all_options_given(
    listed: None, where: dict[str, str], words: Sequence[str], found: list[str]
) -> None:
    document = json.loads((await share_worker("chats", "list", *words, "--json", **where)).out)
    assert [f"{chat['id']} {chat['verdict']}" for chat in document["chats"]] == found
    assert document["chats"][0]["last_outbound_at"] in {START.isoformat(), None}


@sqlite_only
async def test_the_list_is_a_table_for_people(listed: None, where: dict[str, str]) -> None:
    ended = await share_worker("chats", "list", SHARE_TIMEZONE="Europe/Berlin", **where)
    head, first, *_, last = ended.out.splitlines()
    assert head.split() == ["chat", "line", "last", "outbound", "verdict"]
    assert first.split() == ["chat-1", LINE, "2026-03-10", "10:30+01", "due"]
    assert last.split() == ["chat-5", LINE, "not_imessage"]
    nothing = await share_worker("chats", "list", "--verdict", "paused", **where)
    assert nothing == Ended(0, "", "share-worker: no chat matches\n")
    empty = await share_worker("chats", "list", "--verdict", "paused", "--json", **where)
    assert json.loads(empty.out) == {"chats": []}


@sqlite_only
async def test_docs_chats_from_its_file_to_an_export_that_an_import_reads(where: dict[str, str]) -> None:
    page = (ROOT / "docs" / "chats.md").read_text()
    importing, exporting, *_ = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    Path("chats.csv").write_text(page.partition("```csv\n")[2].partition("```")[0])
    typed = [*importing.splitlines(), exporting.splitlines()[0], importing.splitlines()[-1]]
    ended = [await share_worker(*shlex.split(line, comments=True)[1:], **where) for line in typed]
    assert [one.code for one in ended] == [0] * 5
    counts = [dict(re.findall(r"^ *(\w+) +(\d+)", one.out, re.MULTILINE)) for one in ended]
    assert [counts[number]["new"] for number in (1, 2, 4)] == ["1", "1", "0"]
