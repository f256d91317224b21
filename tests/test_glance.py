"""Questions with a time limit: the database itself ends what takes longer, and the session is as before."""

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.errors import TooSlowError

ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(60)",
}


async def test_a_question_that_takes_too_long_is_ended_by_the_database(engine: AsyncEngine) -> None:
    with pytest.raises(TooSlowError, match=r"needs longer than 0\.1 s"):
        async with db.glance(engine, 0.1) as connection:
            await connection.execute(text(ENDLESS[engine.dialect.name]))
    async with db.glance(engine, 5) as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    async with db.read(engine) as connection:
        if engine.dialect.name == "postgresql":
            assert (await connection.execute(text("SHOW statement_timeout"))).scalar_one() == "0"
