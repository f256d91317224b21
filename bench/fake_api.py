"""A fake Linq that is much faster than any client here: it answers a share with a canned 202, and counts.

    python -m bench.fake_api [--latency 0.05] [--jitter 0.02] [--lines 10]

Prints its port, and answers until its stdin ends. Each answer but the bench's own comes after `latency` ± `jitter`
seconds. `GET /bench/calls` tells how many share calls came, and for how many chats, and starts to count anew.
"""

import argparse
import asyncio
import json
import random
import sys
from typing import Final, cast

import uvloop

SHARED: Final = (
    b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n" + b'{"success":true}'
)
HEAD_END: Final = b"\r\n\r\n"


class Api:
    """What all connections share: the answers, and what was called."""

    def __init__(self, *, latency: float, jitter: float, lines: int) -> None:
        self.latency = latency
        self.jitter = jitter
        self.calls = 0
        self.chats: set[bytes] = set()
        cards = [
            {"phone_number": f"+1555010{line:04}", "first_name": "Acme", "last_name": "Support", "is_active": True}
            for line in range(lines)
        ]
        self.cards = _json({"contact_cards": cards})

    def told(self) -> bytes:
        """What was called since the last question."""
        answer = _json({"calls": self.calls, "chats": len(self.chats)})
        self.calls = 0
        self.chats.clear()
        return answer


class Connection(asyncio.Protocol):
    """One keep-alive connection; a client sends one request at a time."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to write."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by class

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._received += data
        while (end := self._received.find(HEAD_END)) >= 0:
            head = self._received[:end]
            size = end + len(HEAD_END) + _body_length(head)
            if len(self._received) < size:
                return
            self._received = self._received[size:]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        method, path, _ = head.split(b" ", 2)
        api = self._api
        if path.endswith(b"/share_contact_card") and method == b"POST":
            api.calls += 1
            api.chats.add(path)
            answer = SHARED
        elif path == b"/v3/contact_card":
            answer = api.cards
        elif path == b"/v3/phone_numbers":
            answer = _json({"phone_numbers": []})
        elif path == b"/bench/calls":
            self._write(api.told())
            return
        else:
            answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        if api.latency:
            wait = random.uniform(api.latency - api.jitter, api.latency + api.jitter)  # noqa: S311 -- a latency
            asyncio.get_running_loop().call_later(wait, self._write, answer)
        else:
            self._write(answer)

    def _write(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)


def _body_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


def _json(value: object) -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def answer(api: Api) -> None:
    """Listen on a free port, print it, and answer until stdin ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(api), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    async with server:
        await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Parse the command line, and answer."""
    parser = argparse.ArgumentParser(description="A fake Linq, much faster than any client.")
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--jitter", type=float, default=0.0)
    parser.add_argument("--lines", type=int, default=10)
    options = parser.parse_args()
    uvloop.run(answer(Api(latency=options.latency, jitter=options.jitter, lines=options.lines)))


if __name__ == "__main__":
    main()
