"""Which PostgreSQL privileges the current role lacks: for a pass, and for `prune`.

Only grants on whole tables count. SQLite has no roles; there the question has no answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import db

PASS_NEEDS: Final[Mapping[str, Sequence[str]]] = {
    db.VERSION_TABLE: ("SELECT",),
    "chats": ("SELECT", "UPDATE"),  # UPDATE for the locks of a claim too
    "contact_cards": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "lines": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "share_attempts": ("SELECT", "INSERT", "UPDATE"),
    "runs": ("SELECT", "INSERT", "UPDATE"),
}
"""The privileges that a pass needs, by table (a test makes passes with these, and with each of them missing)."""

PRUNE_NEEDS: Final[Mapping[str, Sequence[str]]] = {"share_attempts": ("DELETE",), "runs": ("DELETE",)}
"""What `prune` needs besides."""

WEBHOOKS_NEED: Final[Mapping[str, Sequence[str]]] = {
    "chats": ("INSERT",),
    "sent_messages": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "sources": ("SELECT", "INSERT", "UPDATE"),
}
"""What webhooks and the sync need besides."""


NOTIFICATIONS_NEED: Final[Mapping[str, Sequence[str]]] = {
    "notices": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "sources": ("SELECT",),
}
"""What notifications need besides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingGrant:
    """Privileges on one table that the role does not have; the schema's name as SQL writes it."""

    schema: str
    table: str
    privileges: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Privileges:
    """What the current role lacks. The names are as SQL writes them: in quotes if they need them."""

    role: str
    unusable_schema: str | None
    """The schema that holds the tables, if the role has no USAGE on it."""
    for_a_pass: Sequence[MissingGrant]
    for_prune: Sequence[MissingGrant]
    for_webhooks: Sequence[MissingGrant]
    for_notifications: Sequence[MissingGrant]
    may_write: bool
    """True if the role may change any of the tables."""
    is_read_only: bool
    """True if every transaction of the role is read-only, whatever it was granted."""
    is_standby: bool
    """True if the server is a standby, which refuses writing to all roles."""

    @property
    def may_look(self) -> bool:
        """True if the role may read all that a pass reads."""
        return self.unusable_schema is None and not any("SELECT" in grant.privileges for grant in self.for_a_pass)


async def examine_privileges(engine: AsyncEngine) -> Privileges | None:
    """Find the privileges that the current role lacks; None on SQLite, and where the worker's tables do not exist."""
    if engine.dialect.name != "postgresql":
        return None
    async with db.read(engine) as connection:
        session = (await connection.execute(_SESSION)).mappings().one()
        tables = await _our_tables(connection, db.schema_of(engine.sync_engine), session)
    if not tables:
        return None
    quote = engine.dialect.identifier_preparer.quote
    unusable = next((table["schema"] for table in tables if not table["usable"]), None)
    return Privileges(
        role=quote(session["role"]),
        unusable_schema=None if unusable is None else quote(unusable),
        for_a_pass=_missing(tables, PASS_NEEDS, quote),
        for_prune=_missing(tables, PRUNE_NEEDS, quote),
        for_webhooks=_missing(tables, WEBHOOKS_NEED, quote),
        for_notifications=_missing(tables, NOTIFICATIONS_NEED, quote),
        may_write=any(table[privilege] for table in tables for privilege in ("INSERT", "UPDATE", "DELETE")),
        is_read_only=session["is_read_only"],
        is_standby=session["is_standby"],
    )


async def _our_tables(connection: AsyncConnection, schema: str | None, session: RowMapping) -> Sequence[RowMapping]:
    """The worker's tables with the role's privileges on them; none without a version table beside them.

    Without a schema of our own they are where the search path points. PostgreSQL leaves out schemas that the role may
    not use; the first of these counts only if the others do not hold the tables.
    """
    found = (
        (await connection.execute(_TABLES, {"names": list({**PASS_NEEDS, **WEBHOOKS_NEED, **NOTIFICATIONS_NEED})}))
        .mappings()
        .all()
    )
    if schema is not None:
        candidates = [[table for table in found if table["schema"] == schema]]
    else:
        names = [name.strip().strip('"') for name in session["search_path"].split(",")]
        path = [session["role"] if name == "$user" else name for name in names]
        unusable = [[table for table in found if table["schema"] == name and not table["usable"]] for name in path]
        candidates = [[table for table in found if table["visible"]], *unusable]
    return next((tables for tables in candidates if any(table["name"] == db.VERSION_TABLE for table in tables)), [])


def _missing(
    tables: Sequence[RowMapping], needs: Mapping[str, Sequence[str]], quote: Callable[[str], str]
) -> list[MissingGrant]:
    """The privileges that the role lacks, in the order of `needs`. Tables that do not exist are left out."""
    table_of = {table["name"]: table for table in tables}
    lacks = {
        name: [privilege for privilege in privileges if not table_of[name][privilege]]
        for name, privileges in needs.items()
        if name in table_of
    }
    return [
        MissingGrant(schema=quote(table_of[name]["schema"]), table=name, privileges=privileges)
        for name, privileges in lacks.items()
        if privileges
    ]


_SESSION: Final = text("""
    SELECT current_user AS role,
        current_setting('search_path') AS search_path,
        current_setting('transaction_read_only')::boolean AS is_read_only,
        pg_is_in_recovery() AS is_standby
""")

# By oid: by name, a table in a schema that the role may not use is an error.
_TABLES: Final = text("""
    SELECT n.nspname AS schema, c.relname AS name,
        has_schema_privilege(n.oid, 'USAGE') AS usable,
        pg_table_is_visible(c.oid) AS visible,
        has_table_privilege(c.oid, 'SELECT') AS "SELECT",
        has_table_privilege(c.oid, 'INSERT') AS "INSERT",
        has_table_privilege(c.oid, 'UPDATE') AS "UPDATE",
        has_table_privilege(c.oid, 'DELETE') AS "DELETE"
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = ANY(CAST(:names AS text[])) AND c.relkind IN ('r', 'p', 'v', 'f')
    ORDER BY n.nspname, c.relname
""")
