"""Pings a watchdog (healthchecks.io and the like) when passes start and end: at its URL, `/start` and `/fail`.

A watchdog that does not answer is a line in the log and nothing more. Its URL is a secret: anybody who has it can
silence the watchdog.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final, Literal

import httpx
import structlog

from worker.outcomes import PassResult, RunStatus, is_trouble
from worker.proxy import Proxy

Signal = Literal["start", "success", "fail"]

PATHS: Final[dict[Signal, str]] = {"start": "/start", "success": "", "fail": "/fail"}
SECONDS: Final = 10.0

log = structlog.get_logger(__name__)


class Heartbeat:
    """Pings one URL, through `proxy` if there is one; without a URL it does nothing."""

    def __init__(self, url: str | None, *, proxy: Proxy | None = None) -> None:
        self._url = url.rstrip("/") if url else None
        self._proxy = proxy

    def __repr__(self) -> str:
        """Without the URL."""
        return f"Heartbeat({'set' if self._url else 'not set'})"

    async def around(self, making: Awaitable[PassResult], stop: asyncio.Event) -> PassResult:
        """Make a pass, and ping the watchdog when it starts and when it ends; a requested stop is not reported.

        Raises:
            Exception: whatever making the pass raises, after the ping.
        """
        starting = asyncio.create_task(self.send("start"))
        try:
            result = await making
        except Exception as error:
            await starting
            await self.send("fail", type(error).__name__)
            raise
        await starting
        outcome = f"{result.run_id} {result.status.value}{f': {result.detail}' if result.detail else ''}"
        if result.status is RunStatus.COMPLETED:
            await self.send("success", outcome)
        elif is_trouble(result.status, result.detail) and not stop.is_set():
            await self.send("fail", outcome)
        return result

    async def send(self, signal: Signal, text: str = "") -> None:
        """Ping, with a text for the watchdog's log. Ends within ten seconds, and raises nothing."""
        if self._url is None:
            return
        address, _, query = self._url.partition("?")
        url = address.rstrip("/") + PATHS[signal] + (f"?{query}" if query else "")
        try:
            tls = httpx.create_ssl_context()  # trusts SSL_CERT_FILE, as for Linq
            proxy = _for_httpx(self._proxy) if self._proxy else None
            async with (
                asyncio.timeout(SECONDS),
                httpx.AsyncClient(trust_env=False, timeout=SECONDS, verify=tls, proxy=proxy) as client,
                client.stream("POST", url, content=text.encode()) as answer,  # only its status is read
            ):
                if answer.is_success:
                    return
                reason = f"it answered {answer.status_code}"
        except Exception as error:  # noqa: BLE001 -- whatever a watchdog does, the pass goes on
            reason = type(error).__name__
        log.warning("heartbeat.failed", signal=signal, reason=reason)


def _for_httpx(proxy: Proxy) -> httpx.Proxy:
    login = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
    return httpx.Proxy(proxy.address, headers=login)
