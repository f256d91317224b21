"""One cache of compiled statements for all engines of a test process.

SQLAlchemy keeps one cache for each engine, and each test opens engines of its own: compiling was a quarter of the time
of a test with a database. A worker opens one engine for months, and compiles each statement once.
"""

from collections.abc import Hashable, Iterator, MutableMapping
from typing import TypeAlias

from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.sql.compiler import Compiled

Key: TypeAlias = tuple[Dialect, *tuple[Hashable, ...]]


class SharedCache(MutableMapping[Key, Compiled]):
    """Takes the kind of a dialect in place of the one engine's own, which SQLAlchemy's keys begin with."""

    def __init__(self) -> None:
        self._statements: dict[Hashable, tuple[Key, Compiled]] = {}

    def __getitem__(self, key: Key) -> Compiled:
        return self._statements[_kind(key)][1]

    def __setitem__(self, key: Key, compiled: Compiled) -> None:
        self._statements[_kind(key)] = key, compiled

    def __delitem__(self, key: Key) -> None:
        del self._statements[_kind(key)]

    def __iter__(self) -> Iterator[Key]:
        return (key for key, _ in self._statements.values())

    def __len__(self) -> int:
        return len(self._statements)


def _kind(key: Key) -> Hashable:
    dialect, *rest = key
    return type(dialect), dialect.server_version_info, *rest


def share_compiled_statements() -> None:
    """Let every engine of this process use one cache from now on."""
    cache = SharedCache()

    @event.listens_for(Engine, "engine_connect")
    def on_connect(connection: Connection) -> None:
        connection.engine._compiled_cache = cache
