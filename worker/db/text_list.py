"""A list of ids as one SQL parameter: one statement serves any number of ids, each looked up by index.

A statement with a parameter for each id would be a different one for each number of ids: built, parsed and planned
anew each time.
"""

import json
from collections.abc import Collection, Sequence

from sqlalchemy import Dialect, Text, TypeDecorator
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType, TypeEngine


class TextList(TypeDecorator[Collection[str]]):
    """A list of texts as one value: an array on PostgreSQL, JSON on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Sequence[str]] | TypeEngine[str]:
        """Pick the type of the database at hand."""
        return Text() if dialect.name == "sqlite" else ARRAY(Text())

    def process_bind_param(self, value: Collection[str] | None, dialect: Dialect) -> str | list[str] | None:
        """Write the texts."""
        if value is None:
            return None
        return json.dumps(list(value)) if dialect.name == "sqlite" else list(value)


class is_one_of(FunctionElement[bool]):  # noqa: N801 -- named as SQL functions are
    """Whether a text is in a `TextList`: an index lookup for each, on either database."""

    # Typed as Boolean, it would be compared with 1, and SQLite would scan the table instead.
    type = NullType()  # type: ignore[assignment] # it is a condition, to be compiled as it stands
    inherit_cache = True


@compiles(is_one_of)
def _compile_is_one_of(element: is_one_of, compiler: SQLCompiler, **options: object) -> str:
    text_, texts = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{text_} = ANY (CAST({texts} AS TEXT[]))"


@compiles(is_one_of, "sqlite")
def _compile_is_one_of_sqlite(element: is_one_of, compiler: SQLCompiler, **options: object) -> str:
    text_, texts = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{text_} IN (SELECT value FROM json_each({texts}))"  # noqa: S608 -- both are compiled SQL
