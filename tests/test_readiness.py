"""How often `/readyz` looks at the database: a probe every second must not keep it awake."""

from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.conftest import HandClock
from worker import db
from worker.service.readiness import Readiness


@pytest.fixture
def database_url(sqlite_template: Path, tmp_path: Path) -> str:
    """Which database it is makes no difference here."""
    (tmp_path / "worker.db").write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{tmp_path / 'worker.db'}"


@pytest.fixture
def transactions(engine: AsyncEngine) -> list[object]:
    begun: list[object] = []
    event.listen(engine.sync_engine, "begin", begun.append)
    return begun


async def asked_every_second(readiness: Readiness, clock: HandClock, *, seconds: int, busy: bool) -> set[str]:
    reasons: set[str] = set()
    for _ in range(seconds):
        reasons.update(await readiness.trouble(busy=busy))
        clock.move(seconds=1)
    return reasons


async def test_between_passes_an_hour_of_probes_costs_one_query(
    engine: AsyncEngine, clock: HandClock, transactions: list[object]
) -> None:
    readiness = Readiness(engine, clock)
    assert await asked_every_second(readiness, clock, seconds=3600, busy=False) == set()
    assert len(transactions) == 1
    await readiness.trouble(busy=False)
    assert len(transactions) == 2


async def test_while_a_pass_runs_a_lost_database_shows_within_seconds(
    engine: AsyncEngine, clock: HandClock, transactions: list[object]
) -> None:
    readiness = Readiness(engine, clock)
    assert await asked_every_second(readiness, clock, seconds=60, busy=True) == set()
    assert len(transactions) == 12
    async with db.write(engine) as connection:
        await connection.execute(text("UPDATE share_worker_version SET version_num = '9999'"))
    (reason,) = await asked_every_second(readiness, clock, seconds=6, busy=True)
    assert "newer than this version's" in reason


async def test_a_database_that_is_back_is_seen_within_a_second(engine: AsyncEngine, clock: HandClock) -> None:
    readiness = Readiness(engine, clock)
    for version, well in (("9999", False), (db.HEAD, True)):
        async with db.write(engine) as connection:
            await connection.execute(text("UPDATE share_worker_version SET version_num = :v"), {"v": version})
        clock.move(seconds=1)
        assert (await readiness.trouble(busy=False) == []) is well
