"""Some chats, as SQL asks for them: any number of ids in one value, looked up by the key.

A statement that names each id by a parameter of its own is another one for each number of ids: it would be put
together, parsed and planned anew each time.
"""

import json
from collections.abc import Collection

from sqlalchemy import Dialect, Text, TypeDecorator
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType


class TextList(TypeDecorator[Collection[str]]):
    """Some texts as one value: an array on PostgreSQL, JSON on SQLite. So one statement does for any number of them.

    Both are written here: psycopg takes an array's items one by one, which costs a claim a tenth of its work.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Collection[str] | None, dialect: Dialect) -> str | None:
        """Write the texts."""
        if value is None:
            return None
        return json.dumps(list(value)) if dialect.name == "sqlite" else _as_array(value)


class is_one_of(FunctionElement[bool]):  # noqa: N801 -- named as SQL functions are
    """Whether a text is one of a `TextList`: a look-up by key where there is one, on either database."""

    # A Boolean would be asked whether it is 1, and SQLite then looks at every row instead.
    type = NullType()  # type: ignore[assignment] # it is a condition, and wants to be taken as it stands
    inherit_cache = True


@compiles(is_one_of)
def _compile_is_one_of(element: is_one_of, compiler: SQLCompiler, **options: object) -> str:
    text_, texts = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{text_} = ANY (CAST({texts} AS TEXT[]))"


@compiles(is_one_of, "sqlite")
def _compile_is_one_of_sqlite(element: is_one_of, compiler: SQLCompiler, **options: object) -> str:
    text_, texts = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{text_} IN (SELECT value FROM json_each({texts}))"  # noqa: S608 -- both are compiled SQL


def _as_array(texts: Collection[str]) -> str:
    """Texts as PostgreSQL writes an array of them."""
    return "{" + ",".join(['"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts]) + "}"
