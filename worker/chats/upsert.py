"""Writes many chats at once, and says what that changes. What a newer source told is never replaced by older facts.

Of `last_outbound_at` and `last_inbound_at` the later one stays, so whoever writes them may come late. A time of the
table that cannot be read, or that is in the future, is replaced.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Dialect,
    Executable,
    FromClause,
    Text,
    and_,
    bindparam,
    case,
    cast,
    column,
    func,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.types import JSON

from worker.chats.rows import TIMES, Row, Value
from worker.clock import CLOCK_ERROR
from worker.db.inserts import insert_into
from worker.db.partner_values import utc
from worker.db.tables import UtcTime, chats
from worker.db.text_list import TextList, is_one_of

Columns = ReadOnlyColumnCollection[str, ColumnElement[object]]

_LATEST: Final[ColumnElement[datetime]] = bindparam("latest_possible", type_=UtcTime())


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What rows do to the table: they are new in it, change something, or change nothing."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0


async def store(connection: AsyncConnection, rows: Collection[Row], now: datetime) -> Changes:
    """Add chats, or bring those that the table has up to date.

    Each id comes once. A column that a row lacks stays as it is.
    """
    total = Changes()
    for names, batch in _by_columns(rows):
        total = _sum(total, await _store(connection, names, batch, now))
    return total


async def compare(connection: AsyncConnection, rows: Collection[Row], now: datetime) -> Changes:
    """What `store` would do; writes nothing."""
    total = Changes()
    for names, batch in _by_columns(rows):
        total = _sum(total, await _compare(connection, names, batch, now))
    return total


def _by_columns(rows: Iterable[Row]) -> Iterable[tuple[Sequence[str], Sequence[Row]]]:
    """Rows with the same columns together, in the order of their ids: two writers at once cannot deadlock."""
    batches: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: str(row["id"])):
        batches[tuple(sorted(row))].append(row)
    return batches.items()


async def _store(connection: AsyncConnection, names: Sequence[str], rows: Sequence[Row], now: datetime) -> Changes:
    ids = [row["id"] for row in rows]
    known = select(func.count()).where(is_one_of(chats.c.id, bindparam("ids", type_=TextList())))
    existing: int = (await connection.execute(known, {"ids": ids})).scalar_one()
    parameters = _parameters(connection.dialect, rows, now) | {"at": now}
    statement = _upsert(connection, names)
    result = await connection.execute(statement, parameters, execution_options={"preserve_rowcount": True})
    new = len(rows) - existing
    changed = max(result.rowcount - new, 0)  # unless somebody else added some of them just now
    return Changes(new=new, changed=changed, unchanged=existing - changed)


async def _compare(connection: AsyncConnection, names: Sequence[str], rows: Sequence[Row], now: datetime) -> Changes:
    incoming = _incoming(connection.dialect, names)
    known = chats.c.id.is_not(None)
    changed = and_(known, _differs(names, incoming.c))
    counting = select(func.count(chats.c.id), func.count(case((changed, 1)))).select_from(
        incoming.outerjoin(chats, chats.c.id == incoming.c.id)
    )
    parameters = _parameters(connection.dialect, rows, now)
    existing, changes = (await connection.execute(counting, parameters)).one()
    return Changes(new=len(rows) - existing, changed=changes, unchanged=existing - changes)


def _upsert(connection: AsyncConnection, names: Sequence[str]) -> Executable:
    incoming = _incoming(connection.dialect, names)
    # The condition is always true; without one SQLite takes ON CONFLICT for a part of the FROM.
    rows = select(*(incoming.c[name] for name in names)).where(incoming.c.id.is_not(None))
    insert = insert_into(connection, chats).from_select(names, rows)
    values = {name: _new_value(name, insert.excluded) for name in names if name != "id"}
    return insert.on_conflict_do_update(
        index_elements=["id"],
        set_=values | {"updated_at": bindparam("at", type_=UtcTime())},
        where=_differs(names, insert.excluded),
    )


def _differs(names: Iterable[str], incoming: Columns) -> ColumnElement[bool]:
    """Whether a row of the table is another one with the incoming values."""
    return or_(*(_column_differs(name, incoming) for name in names if name != "id"))


def _column_differs(name: str, incoming: Columns) -> ColumnElement[bool]:
    differs = chats.c[name].is_distinct_from(incoming[name])
    if name not in TIMES:
        return differs
    return and_(differs, chats.c[name].is_distinct_from(_new_value(name, incoming)))  # the quick question first


def _new_value(name: str, incoming: Columns) -> ColumnElement[object]:
    """What a column of a row that exists becomes."""
    if name not in TIMES:
        return incoming[name]
    moment = utc(chats.c[name])
    replaced = or_(moment.is_(None), moment > _LATEST, incoming[name] > moment)
    return case((and_(incoming[name].is_not(None), replaced), incoming[name]), else_=chats.c[name])


def _incoming(dialect: Dialect, names: Sequence[str]) -> FromClause:
    """The rows of the parameter `rows`, a JSON array of objects, as a table."""
    columns = [column(name, chats.c[name].type) for name in names]
    rows = bindparam("rows", type_=Text())
    if dialect.name == "postgresql":
        records = func.json_to_recordset(cast(rows, JSON)).table_valued(*columns)
        return records.render_derived(name="incoming", with_types=True)
    objects = func.json_each(rows).table_valued("value", name="objects")
    values = (
        func.json_extract(objects.c.value, f"$.{each.name}", type_=each.type).label(each.name) for each in columns
    )
    return select(*values).subquery("incoming")


def _parameters(dialect: Dialect, rows: Sequence[Row], now: datetime) -> dict[str, object]:
    zone = "" if dialect.name == "sqlite" else "+00"

    def plain(value: Value) -> str | bool | None:
        if isinstance(value, datetime):
            return value.replace(tzinfo=None).isoformat(" ", "microseconds") + zone
        return value

    objects = [{name: plain(value) for name, value in row.items()} for row in rows]
    return {"rows": json.dumps(objects, ensure_ascii=False), "latest_possible": now + CLOCK_ERROR}


def _sum(one: Changes, other: Changes) -> Changes:
    return Changes(
        new=one.new + other.new, changed=one.changed + other.changed, unchanged=one.unchanged + other.unchanged
    )
