"""Answers that are not quite HTTP: a second parser must agree before a chat counts as shared.

The oracle is h11, which is written from the grammar, byte for byte; the connection has llhttp. Over real sockets.
"""

import asyncio
import re
from typing import Final

import h11
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.raw_server import SHARE, Visit, raw_server, share_over
from worker.linq.answers import NeverSent

ANSWERS: Final = (
    b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n{}",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b'HTTP/1.1 404 Not Found\r\nContent-Length: 23\r\n\r\n{"error": {"code":2001}}',
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
)
PIECES: Final = (
    *(b"\r\n", b"\r", b"\n", b"\0", b" ", b":", b"\t", b"2", b"-1", b"\xff", b"x" * 300),
    *(b"HTTP/1.1 202 A\r\n\r\n", b"HTTP/2.0", b"HTTP/0.9"),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n"),
)
_EMPTY_LINES: Final = re.compile(rb"(^|\r\n\r\n)[\r\n]+(?=HTTP/)")
"""Empty lines before a status line: llhttp accepts them, h11 does not."""

Edit = tuple[float, int, bytes]
edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.one_of(st.sampled_from(PIECES), st.binary(max_size=3))),
    max_size=4,
)


def garbled(answer: bytes, changes: list[Edit]) -> bytes:
    """An answer with some bytes replaced by others."""
    for place, length, piece in changes:
        at = int(place * len(answer))
        answer = answer[:at] + piece + answer[at + length :]
    return answer


def status_as_read_by_h11(answer: bytes) -> int | None:
    """The status of the answer to a share as h11 reads it; None if it reads no complete head."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "linq"), ("Content-Length", "0")]))
    connection.send(h11.EndOfMessage())
    try:
        connection.receive_data(_EMPTY_LINES.sub(rb"\1", answer))
        connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                return event.status_code
            if not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(answer=st.sampled_from(ANSWERS), changes=edits)
@example(answer=ANSWERS[0], changes=[])
@example(answer=ANSWERS[1], changes=[])
@example(answer=ANSWERS[2], changes=[])
@example(answer=ANSWERS[3], changes=[])
@example(answer=ANSWERS[4], changes=[])
@example(answer=b"HTTP/2.0 200 OK\r\n\r\n" + ANSWERS[0], changes=[])
@example(answer=b"HTTP/1.1 099 Early\r\nContent-Length: 0\r\n\r\n" + ANSWERS[0], changes=[])
@example(answer=ANSWERS[5] + ANSWERS[0], changes=[])
def test_only_what_both_parsers_read_as_2xx_is_shared(answer: bytes, changes: list[Edit]) -> None:
    sent = garbled(answer, changes)

    async def script(visit: Visit) -> None:
        await visit.request()
        visit.send(sent)
        visit.say_no_more()

    async def scene() -> None:
        async with raw_server(script) as server:
            outcome = await share_over(server)
        assert not isinstance(outcome, NeverSent)
        assert server.requests == [SHARE]
        if isinstance(outcome, int):
            assert outcome == status_as_read_by_h11(sent)
        elif sent in ANSWERS:
            assert not 200 <= (status_as_read_by_h11(sent) or 0) < 300

    asyncio.run(scene())
