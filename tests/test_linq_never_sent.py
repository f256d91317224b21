"""What `share` says after each fault of the network, over real sockets: `NeverSent` only where nothing can have left.

Each test's server keeps every byte that reached it, so what the client claims is held against what really arrived.
Every fault is tried on a direct connection and through a real CONNECT proxy.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx
import pytest

from tests.connect_proxy import asked, tunnel
from tests.raw_server import (
    DONE,
    KEY,
    PATIENCE,
    REQUEST_LINE,
    SHARE,
    RawServer,
    Script,
    Visit,
    attempt,
    keep_alive,
    raw_server,
    reset_unread,
    reset_when_read,
)
from worker.linq.answers import AccessRefused, ChatRefused, LinqError, NeverSent, PerhapsDone, RateLimited
from worker.linq.client import NEVER_SENT, Linq
from worker.proxy import parse


@pytest.fixture(params=["http", "https"])
def tls(
    request: pytest.FixtureRequest,
    certificate: tuple[Path, Path],
    self_signed: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> ssl.SSLContext | None:
    """How the server is reached: plainly, and over TLS that the client trusts."""
    if request.param == "http":
        return None
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    return self_signed


@dataclass(frozen=True, kw_only=True)
class Way:
    """How the client reaches the server."""

    proxy: RawServer | None

    def linq(self, base_url: str, *, key: str = KEY, timeout: float = PATIENCE, connections: int = 20) -> Linq:
        proxy = None if self.proxy is None else parse(self.proxy.base_url, "HTTPS_PROXY")
        return Linq(key, base_url=base_url, timeout=timeout, connections=connections, proxy=proxy)

    async def share_over(self, server: RawServer, seconds: float = PATIENCE) -> int | LinqError:
        """One share by a client of its own; afterwards everything that it sent has arrived."""
        async with self.linq(server.base_url, timeout=seconds) as linq, asyncio.timeout(PATIENCE + 5):
            outcome = await attempt(linq.share("chat"))
        await self.quiet()
        await server.quiet()
        return outcome

    async def passed_on(self) -> None:
        """Return when what the server did has reached the client, too.

        On one machine sockets deliver at once, so that the proxy only has to get its turns of the event loop.
        """
        for _ in range(20 if self.proxy else 0):
            await asyncio.sleep(0)

    async def quiet(self) -> None:
        """Return when the proxy has passed everything on."""
        if self.proxy is not None:
            await self.proxy.quiet()


@pytest.fixture(params=["direct", "proxied"])
async def way(request: pytest.FixtureRequest) -> AsyncIterator[Way]:
    """How the server is reached: directly, and through a proxy."""
    if request.param == "direct":
        yield Way(proxy=None)
        return
    async with raw_server(tunnel) as proxy:
        yield Way(proxy=proxy)
        assert len(asked(proxy)) == len(proxy.visits), "each connection to the proxy asks for a tunnel"


# Never sent, by its class: what httpx raises where a request can have left is not among these


NO_CONNECTION: Final = {"ConnectError", "ConnectTimeout", "UnsupportedProtocol"}


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(httpx).values() if isinstance(kind, type) and issubclass(kind, httpx.HTTPError)]
)
def test_no_error_of_an_open_connection_counts_as_never_sent(kind: type[httpx.HTTPError]) -> None:
    """The deadline of the whole call comes before httpx's own for reading and writing; this would hold without it."""
    assert issubclass(kind, NEVER_SENT) == (kind.__name__ in NO_CONNECTION)


# Never sent: there was no connection to send it over


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_refused_connection_is_never_sent(way: Way, scheme: str, refusing_port: int) -> None:
    async with way.linq(f"{scheme}://127.0.0.1:{refusing_port}") as linq:
        outcome = await attempt(linq.share("chat"))
    assert type(outcome) is NeverSent
    assert str(outcome).startswith("ConnectError")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_name_that_does_not_resolve_is_never_sent(way: Way, scheme: str) -> None:
    async with raw_server(keep_alive) as server:
        base_url = f"{scheme}://linq.invalid:{server.base_url.rpartition(':')[2]}"
        async with way.linq(base_url) as linq:
            outcome = await attempt(linq.share("chat"))
    assert type(outcome) is NeverSent
    assert server.visits == []


async def test_a_scheme_that_is_not_http_is_never_sent(way: Way) -> None:
    async with raw_server(keep_alive) as server:
        async with way.linq(server.base_url.replace("http", "ftp")) as linq:
            outcome = await attempt(linq.share("chat"))
        await server.quiet()
    assert type(outcome) is NeverSent
    assert server.visits == []


async def test_no_connection_in_time_is_never_sent(way: Way) -> None:
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [opened.enter_context(socket.socket()) for _ in range(8)]
        for other in waiting:  # more than the queue of unaccepted connections holds
            other.setblocking(False)
            other.connect_ex(address)
        async with way.linq(f"http://127.0.0.1:{address[1]}", timeout=0.6) as linq:
            outcome = await attempt(linq.share("chat"))
        listener.setblocking(False)
        accepted: list[socket.socket] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                accepted.append(opened.enter_context(connection))
        others = {other.getsockname() for other in waiting}
        assert {connection.getpeername() for connection in accepted} <= others
    assert type(outcome) is NeverSent
    assert str(outcome).startswith("ConnectTimeout")


async def test_a_connection_that_only_the_kernel_accepted_may_have_carried_the_request(way: Way) -> None:
    """The mirror image of the test above: the server never accepts, but its kernel did, and took the request."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        async with way.linq(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.6) as linq:
            outcome = await attempt(linq.share("chat"))
        await way.quiet()
        connection, _ = listener.accept()
        with connection:
            received = b"".join(iter(lambda: connection.recv(65536), b""))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert type(outcome) is PerhapsDone
    assert len(REQUEST_LINE.findall(received)) == 1


async def greets(visit: Visit) -> None:
    """Speak first, and not TLS."""
    visit.send(b"220 mail.example ESMTP\r\n")


async def answers_plainly(visit: Visit) -> None:
    """Answer the ClientHello as if it were a plain request."""
    visit.received += await visit.reader.read(65536)
    visit.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


async def answers_garbage(visit: Visit) -> None:
    visit.received += await visit.reader.read(65536)
    visit.send(bytes(range(256)))


async def alerts(visit: Visit) -> None:
    """Refuse the handshake in TLS's own words (handshake_failure)."""
    visit.received += await visit.reader.read(65536)
    visit.send(b"\x15\x03\x03\x00\x02\x02\x28")


async def closes_on_hello(visit: Visit) -> None:
    visit.received += await visit.reader.read(65536)
    await visit.close()


async def resets_on_hello(visit: Visit) -> None:
    visit.received += await visit.reader.read(65536)
    visit.reset()


@pytest.mark.parametrize(
    "script", [greets, answers_plainly, answers_garbage, alerts, closes_on_hello, resets_on_hello, Visit.until_closed]
)
async def test_a_tls_handshake_that_fails_is_never_sent(way: Way, script: Script) -> None:
    async with raw_server(script) as server:
        server.base_url = server.base_url.replace("http", "https")
        outcome = await way.share_over(server, seconds=0.6 if script is Visit.until_closed else PATIENCE)
    assert type(outcome) is NeverSent
    assert len(server.visits) == 1
    if server.received or script is not greets:  # a proxy may pass a greeting on so early that no hello is sent
        assert server.received.startswith(b"\x16\x03")  # a ClientHello, which nobody can take for a request
    assert server.requests == []
    assert KEY.encode() not in server.received


async def test_a_certificate_that_nobody_vouches_for_is_never_sent_to(way: Way, self_signed: ssl.SSLContext) -> None:
    async with raw_server(keep_alive, self_signed) as server:
        outcome = await way.share_over(server)
    assert type(outcome) is NeverSent
    assert "CERTIFICATE_VERIFY_FAILED" in str(outcome)
    assert server.visits == []


async def test_a_trusted_certificate_for_another_name_is_never_sent_to(
    way: Way, self_signed: ssl.SSLContext, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    async with raw_server(keep_alive, self_signed) as server:
        server.base_url = server.base_url.replace("127.0.0.1", "localhost")
        outcome = await way.share_over(server)
    assert type(outcome) is NeverSent
    assert "CERTIFICATE_VERIFY_FAILED" in str(outcome)
    assert server.visits == []


async def test_a_server_without_faults_is_shared_through_once(way: Way, tls: ssl.SSLContext | None) -> None:
    async with raw_server(keep_alive, tls) as server:
        assert await way.share_over(server) == 202
    assert server.requests == [SHARE]
    assert f"Authorization: Bearer {KEY}\r\n".encode() in server.received


# Perhaps done: the connection stood, and what became of the request is not known


async def reset_half_read(visit: Visit) -> None:
    visit.leave_unread()
    await visit.taste(20)
    visit.reset()


async def close_unread(visit: Visit) -> None:
    visit.leave_unread()
    await visit.arrived()
    await visit.close()


async def say_no_more_unread(visit: Visit) -> None:
    visit.leave_unread()
    await visit.arrived()
    visit.say_no_more()


async def say_no_more_half_read(visit: Visit) -> None:
    visit.leave_unread()
    await visit.taste(20)
    visit.say_no_more()


@pytest.mark.parametrize(
    "script", [reset_unread, reset_half_read, close_unread, say_no_more_unread, say_no_more_half_read]
)
async def test_a_connection_lost_before_the_server_read_the_request_is_perhaps_done(way: Way, script: Script) -> None:
    """The client cannot know that nobody read it: the bytes had left."""
    async with raw_server(script) as server:
        outcome = await way.share_over(server)
    assert type(outcome) is PerhapsDone
    assert len(server.visits) == 1
    assert len(server.requests) <= 1
    assert SHARE.encode().startswith(server.received[:20])


async def close_when_read(visit: Visit) -> None:
    await visit.request()
    await visit.close()


async def reset_within_head(visit: Visit) -> None:
    await visit.request()
    visit.send(DONE[:24])
    visit.reset()


async def close_within_head(visit: Visit) -> None:
    await visit.request()
    visit.send(DONE[:24])
    await visit.close()


async def close_within_status(visit: Visit) -> None:
    await visit.request()
    visit.send(b"HTTP/1.1 2")
    await visit.close()


@pytest.mark.parametrize(
    "script", [reset_when_read, close_when_read, reset_within_head, close_within_head, close_within_status]
)
async def test_a_connection_lost_before_the_answers_head_is_whole_is_perhaps_done(
    way: Way, script: Script, tls: ssl.SSLContext | None
) -> None:
    async with raw_server(script, tls) as server:
        outcome = await way.share_over(server)
    assert type(outcome) is PerhapsDone
    assert outcome.status is None
    assert server.requests == [SHARE]
    assert len(server.visits) == 1


NOT_HTTP: Final = {
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "binary": bytes(range(256)),
    "the beginning of HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "only line breaks": b"\r\n\r\n\r\n",
    "HTML without a head": b"<html><body>Hello</body></html>\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 OK Accepted\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 Accepted\r\n\r\n",
    "a version that is no number": b"HTTP/x.y 202 Accepted\r\n\r\n",
    "a header without a colon": b"HTTP/1.1 202 Accepted\r\nContent-Length 0\r\n\r\n",
    "a length that is no number": b"HTTP/1.1 202 Accepted\r\nContent-Length: few\r\n\r\n",
    "two lengths": b"HTTP/1.1 202 Accepted\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "a coding that nobody knows": b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: morse\r\n\r\n",
    "a head without end": b"HTTP/1.1 202 Accepted\r\nX-Long: " + b"x" * 200_000,
}


@pytest.mark.parametrize("answer", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_an_answer_that_is_not_http_is_perhaps_done(way: Way, answer: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.send(answer)
        visit.say_no_more()

    async with raw_server(script) as server:
        outcome = await way.share_over(server)
    assert type(outcome) is PerhapsDone
    assert outcome.status is None
    assert str(outcome).isprintable()
    assert server.requests == [SHARE]
    assert len(server.visits) == 1


async def silent(visit: Visit) -> None:
    await visit.request()


async def trickling_head(visit: Visit) -> None:
    await visit.request()
    await visit.trickle(b"HTTP/1.1 202 Accepted\r\nX-Slow: " + b"x" * 1000)


async def forever_100(visit: Visit) -> None:
    """Say `100 Continue` again and again: each is a sign of life, and none an answer."""
    await visit.request()
    while not await visit.closed_within(0.05):
        visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")


@pytest.mark.parametrize("script", [silent, trickling_head, forever_100])
async def test_no_answer_in_time_is_perhaps_done(way: Way, script: Script) -> None:
    async with raw_server(script) as server:
        outcome = await way.share_over(server, seconds=0.6)
    assert type(outcome) is PerhapsDone
    assert outcome.status is None
    assert str(outcome) == "no answer within 0.6 s"
    assert server.requests == [SHARE]
    assert len(server.visits) == 1


async def test_a_switch_of_protocols_is_perhaps_done(way: Way) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n")

    async with raw_server(script) as server:
        outcome = await way.share_over(server)
    assert type(outcome) is PerhapsDone
    assert server.requests == [SHARE]
    assert len(server.visits) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_perhaps_done_and_not_followed(way: Way, status: int) -> None:
    async with raw_server(keep_alive) as elsewhere:

        async def script(visit: Visit) -> None:
            await visit.request()
            to = f"{elsewhere.base_url}/v3/chats/chat/share_contact_card"
            visit.send(f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())

        async with raw_server(script) as server:
            outcome = await way.share_over(server)
        assert elsewhere.visits == []
    assert type(outcome) is PerhapsDone
    assert outcome.status == status
    assert server.requests == [SHARE]


async def test_a_share_that_is_given_up_meanwhile_is_not_repeated(way: Way, tls: ssl.SSLContext | None) -> None:
    """And the next one does not go over the connection on which the answer to it may still come."""
    asked = asyncio.Event()

    async def script(visit: Visit) -> None:
        request = await visit.request()
        if b"/first/" in request:
            asked.set()
            return
        visit.send(DONE)

    async with raw_server(script, tls) as server:
        async with way.linq(server.base_url, connections=1) as linq:
            first = asyncio.create_task(linq.share("first"))
            await asked.wait()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert await linq.share("second") == 202
        await server.quiet()
    assert [visit.requests for visit in server.visits] == [[SHARE_OF["first"]], [SHARE_OF["second"]]]


# Shared: Linq said so, whatever happened to the connection afterwards


HEAD: Final = b"HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\n"
CHUNKED: Final = b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN_BODIES: Final = {
    "no body": HEAD,
    "half a body": HEAD + b"12345",
    "half a chunk": CHUNKED + b"5\r\n12",
    "no last chunk": CHUNKED + b"5\r\n12345\r\n",
    "a chunk of no length": CHUNKED + b"many\r\n12345\r\n",
    "not the compression it says": b"HTTP/1.1 202 Accepted\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nplain",
    "not compressed at all": b"HTTP/1.1 202 Accepted\r\nContent-Encoding: deflate\r\nContent-Length: 2\r\n\r\n{}",
    "more than anybody reads": b"HTTP/1.1 202 Accepted\r\nContent-Length: 500000\r\n\r\n" + b"x" * 400_000,
}


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("answer", BROKEN_BODIES.values(), ids=BROKEN_BODIES)
async def test_a_202_counts_as_shared_whatever_becomes_of_its_body(
    way: Way, answer: bytes, how: Literal["reset", "close"], tls: ssl.SSLContext | None
) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.send(answer)
        if how == "reset":
            visit.reset()
        else:
            await visit.close()

    async with raw_server(script, tls) as server:
        outcome = await way.share_over(server)
    assert outcome == 202
    assert server.requests == [SHARE]
    assert len(server.visits) == 1


async def silent_body(visit: Visit) -> None:
    await visit.request()
    visit.send(HEAD)


async def trickling_body(visit: Visit) -> None:
    await visit.request()
    visit.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000\r\n\r\n")
    await visit.trickle(b"x" * 1000)


@pytest.mark.parametrize("script", [silent_body, trickling_body])
async def test_a_202_whose_body_does_not_end_in_time_counts_as_shared(
    way: Way, script: Script, tls: ssl.SSLContext | None
) -> None:
    async with raw_server(script, tls) as server:
        outcome = await way.share_over(server, seconds=0.6)
    assert outcome == 202
    assert server.requests == [SHARE]
    assert len(server.visits) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 299 New\r\nContent-Length: 9\r\n\r\n<p>Hi</p>",
        b"HTTP/1.0 202 Accepted\r\n\r\nuntil the end",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["200", "201", "204", "299", "HTTP/1.0", "after a 100", "after a 103"],
)
async def test_any_2xx_is_shared(way: Way, answer: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.send(answer)
        visit.say_no_more()

    async with raw_server(script) as server:
        outcome = await way.share_over(server)
    assert isinstance(outcome, int)
    assert 200 <= outcome < 300
    assert server.requests == [SHARE]
    assert len(server.visits) == 1


# Answers that ask to be tried again


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AccessRefused),
        (408, ChatRefused),
        (409, ChatRefused),
        (425, ChatRefused),
        (429, RateLimited),
        (500, PerhapsDone),
        (502, PerhapsDone),
        (503, PerhapsDone),
        (504, PerhapsDone),
    ],
)
async def test_no_answer_makes_share_repeat_its_request(
    way: Way, status: int, kind: type[LinqError], tls: ssl.SSLContext | None
) -> None:
    async def script(visit: Visit) -> None:
        while True:
            await visit.request()
            visit.send(f"HTTP/1.1 {status} No\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n".encode())

    async with raw_server(script, tls) as server:
        outcome = await way.share_over(server)
    assert type(outcome) is kind
    assert outcome.status == status
    assert server.requests == [SHARE]
    assert len(server.visits) == 1


# Connections that are kept for the next share


SHARE_OF: Final = {name: SHARE.replace("/chat/", f"/{name}/") for name in ("first", "second", "third")}


async def close_idle(visit: Visit) -> None:
    await visit.close()


async def reset_idle(visit: Visit) -> None:
    visit.reset()


async def time_idle_out(visit: Visit) -> None:
    """What some proxies do: an answer that no request asked for, and the end."""
    visit.send(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    await visit.close()


async def babble_idle(visit: Visit) -> None:
    visit.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("end", [close_idle, reset_idle, time_idle_out, babble_idle])
async def test_an_idle_connection_that_the_server_spoilt_is_not_used_for_the_next_share(
    way: Way, end: Script, tls: ssl.SSLContext | None
) -> None:
    spoil, spoilt = asyncio.Event(), asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.request()
        visit.send(DONE)
        if len(server.visits) == 1:
            await spoil.wait()
            # With TLS the end of the closing waits for the client's, which comes with the next share.
            ending = asyncio.ensure_future(end(visit))
            await asyncio.wait({ending}, timeout=0.1)
            spoilt.set()
            await ending

    async with raw_server(script, tls) as server:
        async with way.linq(server.base_url, connections=1) as linq:
            assert await linq.share("first") == 202
            spoil.set()
            await spoilt.wait()
            await way.passed_on()
            assert await linq.share("second") == 202
        await server.quiet()
    assert [visit.requests for visit in server.visits] == [[SHARE_OF["first"]], [SHARE_OF["second"]]]


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_kept_connection_that_breaks_under_the_next_share_is_perhaps_done_and_not_repeated(
    way: Way, how: Literal["reset", "close"], tls: ssl.SSLContext | None
) -> None:
    async def script(visit: Visit) -> None:
        request = await visit.request()
        if b"/second/" in request:
            if how == "reset":
                visit.reset()
            else:
                await visit.close()
            return
        visit.send(DONE)
        await script(visit)

    async with raw_server(script, tls) as server:
        async with way.linq(server.base_url, connections=1) as linq:
            assert await linq.share("first") == 202
            outcome = await attempt(linq.share("second"))
            assert type(outcome) is PerhapsDone
            assert [visit.requests for visit in server.visits] == [[SHARE_OF["first"], SHARE_OF["second"]]]
            assert await linq.share("third") == 202
        await server.quiet()
    assert server.requests == [SHARE_OF[name] for name in ("first", "second", "third")]


@pytest.mark.parametrize(
    "surplus",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 60\r\n\r\n",  # its body would be the answer to the next share
        b"HTTP/1.1 404 Not F",
        b"nonsense",
    ],
)
async def test_a_surplus_answer_is_not_taken_for_the_answer_to_the_next_share(
    way: Way, tls: ssl.SSLContext | None, surplus: bytes
) -> None:
    """A proxy that answers once too often: else each later share would be told what became of another one."""

    async def script(visit: Visit) -> None:
        while True:
            request = await visit.request()
            visit.send(DONE + (surplus if b"/first/" in request else b""))

    async with raw_server(script, tls) as server:
        async with way.linq(server.base_url, connections=1) as linq:
            assert await linq.share("first") == 202
            assert await attempt(linq.share("second")) == 202
        await server.quiet()
    assert [visit.requests for visit in server.visits] == [[SHARE_OF["first"]], [SHARE_OF["second"]]]


async def test_a_share_after_one_that_broke_off_is_not_given_the_rest_of_its_answer(way: Way) -> None:
    async def script(visit: Visit) -> None:
        request = await visit.request()
        if b"/first/" in request:
            visit.send(b"HTTP/1.1 500 No\r\nContent-Length: 100000\r\n\r\n" + b"x" * 70_000)  # more than is read of it
            return
        visit.send(DONE)

    async with raw_server(script) as server:
        async with way.linq(server.base_url, connections=1) as linq:
            first = await attempt(linq.share("first"))
            assert type(first) is PerhapsDone
            assert first.status == 500
            assert await linq.share("second") == 202
        await server.quiet()
    assert [visit.requests for visit in server.visits] == [[SHARE_OF["first"]], [SHARE_OF["second"]]]


# Who else gets to see the request


@pytest.mark.parametrize("smuggled", ["\r\nX-More: 1", "\nX-More: 1", "\rX-More: 1", "\0"])
async def test_a_key_that_would_end_its_header_is_not_sent(way: Way, smuggled: str) -> None:
    async with raw_server(silent) as server:
        async with way.linq(server.base_url, key=KEY + smuggled) as linq:
            outcome = await attempt(linq.share("chat"))
        await server.quiet()
    assert isinstance(outcome, LinqError)
    assert KEY not in str(outcome)
    assert server.received == b""


async def test_a_proxy_of_the_environment_is_not_used(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors would look like those of a connection to Linq, and it would see the key."""
    async with raw_server(keep_alive) as proxy, raw_server(keep_alive) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.base_url)
            monkeypatch.setenv(name.lower(), proxy.base_url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert await way.share_over(server) == 202
        assert proxy.visits == []
    assert server.requests == [SHARE]


async def test_the_password_of_a_netrc_file_does_not_replace_the_key(
    way: Way, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("default login someone password something\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with raw_server(keep_alive) as server:
        assert await way.share_over(server) == 202
    assert server.received.count(b"Authorization") == 1
    assert f"Authorization: Bearer {KEY}\r\n".encode() in server.received
