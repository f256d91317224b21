"""Tells a watchdog (healthchecks.io and its kin) that passes happen: by its URL, `/start` and `/fail`.

A watchdog that does not answer is a line in the log and nothing more. Its URL is a secret: who has it can silence it.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final, Literal

import httpx
import structlog

from worker.outcomes import PassResult, RunStatus

Signal = Literal["start", "success", "fail"]

PATHS: Final[dict[Signal, str]] = {"start": "/start", "success": "", "fail": "/fail"}
SECONDS: Final = 10.0

log = structlog.get_logger(__name__)


class Heartbeat:
    """Pings one URL, or none."""

    def __init__(self, url: str | None) -> None:
        self._url = url.rstrip("/") if url else None

    def __repr__(self) -> str:
        """Without the URL."""
        return f"Heartbeat({'set' if self._url else 'not set'})"

    async def around(self, making: Awaitable[PassResult], stop: asyncio.Event) -> PassResult:
        """Make a pass, and tell the watchdog that it begins and how it ends; of one told to stop, only that.

        Raises:
            Exception: whatever making the pass raises, after the watchdog was told.
        """
        greeting = asyncio.create_task(self.send("start"))
        try:
            result = await making
        except Exception as error:
            await greeting
            await self.send("fail", type(error).__name__)
            raise
        await greeting
        told = f"{result.run_id} {result.status.value}{f': {result.detail}' if result.detail else ''}"
        if result.status is RunStatus.COMPLETED:
            await self.send("success", told)
        elif not stop.is_set():
            await self.send("fail", told)
        return result

    async def send(self, signal: Signal, text: str = "") -> None:
        """Ping, with a few words that the watchdog keeps; return after ten seconds at the most, and raise nothing."""
        if self._url is None:
            return
        address, _, query = self._url.partition("?")
        url = address.rstrip("/") + PATHS[signal] + (f"?{query}" if query else "")
        try:
            async with (
                asyncio.timeout(SECONDS),
                httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client,
                client.stream(
                    "POST", url, content=text.encode()
                ) as answer,  # what it says beyond its status, nobody reads
            ):
                if answer.is_success:
                    return
                reason = f"it answered {answer.status_code}"
        except Exception as error:  # noqa: BLE001 -- whatever a watchdog does, the pass goes on
            reason = type(error).__name__
        log.warning("heartbeat.failed", signal=signal, reason=reason)
