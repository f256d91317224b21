"""The worker's HTTP side against clients that mean no good, over real sockets: limits, headers, no word too many."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import CollectorRegistry

from worker.service.metrics import Metrics
from worker.settings import Settings
from worker.web.app import HEADERS, make_app
from worker.web.server import LARGEST_HEAD, MOST_CONNECTIONS, serving_app

DETAIL = "what went wrong"


class Pages:
    """The pages of a worker, and why it is not ready, if it is not."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.url = ""

    async def unready(self) -> list[str]:
        if self.trouble is not None:
            raise self.trouble
        return []

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        assert url.port is not None
        return url.host, url.port

    async def say(self, data: bytes) -> bytes:
        """Send bytes on a connection of its own, and read to its end."""
        reader, writer = await asyncio.open_connection(*self.address)
        heard = b""
        try:
            writer.write(data)
            with contextlib.suppress(ConnectionError):
                while part := await reader.read(65536):
                    heard += part
        finally:
            await close(writer)
        return heard

    async def alive(self) -> bool:
        async with httpx.AsyncClient() as client:
            return (await client.get(self.url + "/livez")).status_code == 200


async def close(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
async def pages() -> AsyncIterator[Pages]:
    pages = Pages()
    app = make_app(unready=pages.unready, registry=Metrics(CollectorRegistry()).registry)
    async with serving_app(app, host="127.0.0.1", port=0) as pages.url:
        yield pages


MUCH = 100 * LARGEST_HEAD
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n"


def test_it_is_reached_from_this_machine_only_unless_told_otherwise() -> None:
    assert Settings().HTTP_HOST == "127.0.0.1"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/admin", 404),
        ("GET", "/", 404),
        ("GET", "/livez/../../etc/passwd", 404),
        ("GET", "/%2e%2e/etc/passwd", 404),
        ("GET", "/docs", 404),
        ("POST", "/livez", 405),
        ("DELETE", "/metrics", 405),
        ("TRACE", "/readyz", 405),
        ("CONNECT", "/livez", 405),
    ],
)
async def test_every_answer_has_the_same_headers_and_an_error_says_its_status_only(
    pages: Pages, method: str, path: str, status: int
) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.request(method, pages.url + path)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "server" not in answer.headers
    if status >= 400:
        assert answer.text == {404: "Not Found\n", 405: "Method Not Allowed\n"}[status]
        assert answer.headers["content-type"].startswith("text/plain")
    if status == 405:
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_a_bug_is_in_the_log_and_not_on_the_page(pages: Pages, caplog: pytest.LogCaptureFixture) -> None:
    pages.trouble = RuntimeError(DETAIL)
    with caplog.at_level(logging.ERROR):
        async with httpx.AsyncClient() as client:
            answer = await client.get(pages.url + "/readyz")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error\n")
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert DETAIL in caplog.text
    caplog.clear()
    assert await pages.alive()


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /" + b"a" * MUCH + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        GET + b"X: " + b"a" * MUCH + b"\r\n\r\n",
        GET + b"X: a\r\n" * (MUCH // 6) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /livez HTTP/9\r\n\r\n",
        b"\0" * 100 + b"\r\n\r\n",
    ],
    ids=["path", "header", "headers", "TLS", "version", "NUL"],
)
async def test_what_is_too_large_or_no_http_is_refused(pages: Pages, request_: bytes) -> None:
    async with asyncio.timeout(4):
        heard = await pages.say(request_)
    assert heard.startswith(b"HTTP/1.1 400 ") or heard == b""
    assert await pages.alive()


async def test_a_body_that_nobody_asked_for_is_not_kept(pages: Pages) -> None:
    async with asyncio.timeout(10):
        heard = await pages.say(
            b"POST /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 8000000\r\n\r\n"
            + b"x" * 8_000_000
        )
    assert b" 405 " in heard[:20] or heard == b""
    assert await pages.alive()


async def test_with_more_connections_than_allowed_requests_are_refused_until_some_are_closed(pages: Pages) -> None:
    opened = [await asyncio.open_connection(*pages.address) for _ in range(MOST_CONNECTIONS)]
    close_after = GET + b"Connection: close\r\n\r\n"
    assert (await pages.say(close_after)).startswith(b"HTTP/1.1 503 ")
    await close(*(writer for _, writer in opened))
    async with asyncio.timeout(4):
        while not (await pages.say(close_after)).startswith(b"HTTP/1.1 200 "):
            pass  # the closed ones are not gone yet


async def test_one_connection_serves_request_after_request(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are on what a client says, not on how long it stays."""
    reader, writer = await asyncio.open_connection(*pages.address)
    for _ in range(3):
        writer.write(GET + b"\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await reader.readuntil(b"}")
    await close(writer)
