"""The write transactions of a pass: thousands of them, one after the other, over a connection that is kept for them.

On PostgreSQL their plans are kept as well: to make them anew each time was more than half of its work. A plan that is
kept knows neither the values nor how much the tables have grown since. So on this connection every row is looked up by
a key, one after the other in the key's order, whatever else PostgreSQL would think of: a claim reads no further than to
the last chat that it wants. And a plan is made anew each time that the transactions have doubled: which key is the best
one cannot be seen from a ledger of three rows. What reads many rows (the walk, the tally) has other connections.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import db

PLANS: Final = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
"""PostgreSQL's settings for plans that are made once, and stay right while an empty table grows to millions of rows."""


class Writes:
    """Write transactions, each as `db.write` would make it, without what taking a connection costs each time."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None
        self._made = 0
        """Transactions on this connection."""
        self._free_since = 0.0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed when the block ends well, and undone when it does not.

        Whatever fails takes the connection with it: the next transaction has a new one.
        """
        async with db.within(db.WRITE_SECONDS):
            try:
                connection = await self._at_hand()
                async with connection.begin():
                    if self._made.bit_count() == 1 and connection.dialect.name == "postgresql":
                        await connection.exec_driver_sql("DISCARD PLANS")
                    self._made += 1
                    yield connection
            except BaseException:
                await self.aclose()
                raise
            self._free_since = time.monotonic()

    async def aclose(self) -> None:
        """Give up the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.shield(asyncio.ensure_future(_end(connection)))

    async def _at_hand(self) -> AsyncConnection:
        on_postgresql = self._engine.dialect.name == "postgresql"
        idle_seconds = time.monotonic() - self._free_since
        if self._connection is not None and on_postgresql and idle_seconds > db.IDLE_SECONDS:
            try:
                await self._connection.run_sync(db.ping)
            except SQLAlchemyError:
                await self.aclose()
        if self._connection is None:
            self._connection, self._made = await self._engine.connect(), 0
            if on_postgresql:
                settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in PLANS.items())
                await self._connection.exec_driver_sql(f"SELECT {settings}")
                await self._connection.commit()
            await self._connection.execution_options(**db.WRITING)
        return self._connection


async def _end(connection: AsyncConnection) -> None:
    if connection.dialect.name == "postgresql":
        await connection.invalidate()  # the pool shall not lend it to others, with these settings
    await connection.close()
