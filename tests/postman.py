"""Linq as it delivers webhooks: many at a time over real HTTP, signed, and again after a 5xx.

What was sent and answered is counted; an answer that docs/webhooks.md does not promise is a sentence in `wrong`.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from worker.simulator.deliveries import ANSWER_SECONDS, STALE, Broken
from worker.simulator.subscriptions import new_secret
from worker.simulator.webhooks import signed
from worker.web.webhooks import LARGEST_BODY, PATH

AT_ONCE: Final = 20
TRIES: Final = 10
"""Linq repeats for half an hour."""

STATUSES: Final[Mapping[Broken | None, int]] = {
    None: 204,
    "signature": 401,
    "timestamp": 401,
    "json": 400,
    "large": 413,
}
"""What a delivery is answered, by what is wrong with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """An event to deliver, and what is wrong with the delivery."""

    event: Mapping[str, object]
    broken: Broken | None = None


class Postman:
    """Delivers events to the worker at `url`, signed with its secret."""

    def __init__(self, secret: str) -> None:
        self.url = ""
        self.delivered: Counter[str] = Counter()
        """By what the worker's metric is to say of them: written, refused, failed."""
        self.wrong: list[str] = []
        self._secret = secret

    async def deliver(self, letters: Iterable[Letter]) -> None:
        """Deliver all of them; return when the last one is answered."""
        async with self._client() as client, asyncio.TaskGroup() as group:
            shared = iter(letters)
            for _ in range(AT_ONCE):
                group.create_task(self._carry(client, shared))

    async def counted(self) -> Counter[str]:
        """The worker's own count of webhooks, by result."""
        counts: Counter[str] = Counter()
        async with self._client() as client:
            text = (await client.get("/metrics")).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "share_worker_webhooks_total":
                    counts[sample.labels["result"]] += int(sample.value)
        return counts

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=ANSWER_SECONDS, trust_env=False)

    async def _carry(self, client: httpx.AsyncClient, letters: Iterator[Letter]) -> None:
        for letter in letters:
            status = 0
            for _ in range(TRIES):
                status = await self._send(client, letter)
                if status < 500:
                    break
                self.delivered["failed"] += 1
            self.delivered["written" if letter.broken is None else "refused"] += 1
            if status != STATUSES[letter.broken]:
                what = letter.broken or "well signed"
                self.wrong.append(f"{letter.event['event_type']}, {what}, was answered {status}: {letter.event}")

    async def _send(self, client: httpx.AsyncClient, letter: Letter) -> int:
        at = datetime.now(UTC)  # the signature's time is checked against the machine's clock
        body = json.dumps(letter.event)
        if letter.broken == "json":
            body = body[: len(body) // 2]
        elif letter.broken == "large":
            body = body.ljust(LARGEST_BODY + 1)
        headers, content = signed(
            letter.event,
            new_secret() if letter.broken == "signature" else self._secret,
            at - STALE if letter.broken == "timestamp" else at,
            body=body,
        )
        try:
            return (await client.post(PATH, headers=headers, content=content)).status_code
        except httpx.HTTPError as error:
            self.wrong.append(f"{letter.event['event_type']} got no answer: {error!r}")
            return 0
