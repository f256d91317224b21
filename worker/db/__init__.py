"""The database: how what the worker knows is stored, read and written; nothing about what the rows mean.

Outside of this folder it is `from worker import db`, and `worker.db.tables` for the tables.
"""

from worker.db.engine import glance, opened, read, schema_of, stream, write
from worker.db.faults import describe, is_passing, one_line_errors
from worker.db.outage import PAUSE_SECONDS, Outage
from worker.db.schema import (
    HEAD,
    MIGRATION_LOCK,
    VERSION_TABLE,
    alembic_config,
    migrate,
    prepare,
    require_current_schema,
    schema_revision,
)
from worker.db.url import parse_url, shown, sqlite_file

__all__ = [
    "HEAD",
    "MIGRATION_LOCK",
    "PAUSE_SECONDS",
    "VERSION_TABLE",
    "Outage",
    "alembic_config",
    "describe",
    "glance",
    "is_passing",
    "migrate",
    "one_line_errors",
    "opened",
    "parse_url",
    "prepare",
    "read",
    "require_current_schema",
    "schema_of",
    "schema_revision",
    "shown",
    "sqlite_file",
    "stream",
    "write",
]
