"""Proxies: which one is chosen, as curl chooses it, and that nothing counts as sent before the tunnel stands."""

import asyncio
import base64
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.commands import one_line, share_worker
from tests.connect_proxy import ESTABLISHED, asked, relay_to, tunnel, tunnel_to
from tests.raw_server import KEY, PATIENCE, SHARE, RawServer, Script, Visit, attempt, keep_alive, raw_server
from tests.scene import Scene
from worker import assembly
from worker.clock import SystemClock
from worker.errors import UsageError
from worker.linq.answers import LinqError, NeverSent, PerhapsDone
from worker.linq.client import Linq
from worker.notifications.heartbeat import Heartbeat
from worker.proxy import Proxy, choose, parse
from worker.settings import load

PASSWORD: Final = "planted p@ss:w/rd"
LOGIN: Final = f"some%40one:{quote(PASSWORD, safe='')}"
AUTHORIZATION: Final = f"Basic {base64.b64encode(f'some@one:{PASSWORD}'.encode()).decode()}"
URL: Final = "https://api.linq.example/api/partner"


# Which proxy: the answers in these tables are those of curl 7.88


@pytest.mark.parametrize(
    ("variables", "chosen"),
    [
        ({}, None),
        ({"https_proxy": "http://a:1"}, "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1"}, "http://a:1"),
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1"}, "http://a:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://b:1"}, "http://b:1"),
        ({"all_proxy": "http://a:1"}, "http://a:1"),
        ({"ALL_PROXY": "http://a:1"}, "http://a:1"),
        ({"all_proxy": "http://a:1", "ALL_PROXY": "http://b:1"}, "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1", "all_proxy": "http://b:1"}, "http://a:1"),
        ({"http_proxy": "http://a:1", "HTTP_PROXY": "http://b:1"}, None),
        ({"HTTPS_PROXY": "a:3128"}, "http://a:3128"),
        ({"HTTPS_PROXY": "http://a"}, "http://a:1080"),
        ({"HTTPS_PROXY": "HTTP://a:3128/"}, "http://a:3128"),
        ({"HTTPS_PROXY": "http://[::1]:3128"}, "http://[::1]:3128"),
        ({"HTTPS_PROXY": "http://user:planted@a:3128"}, "http://user:***@a:3128"),
        ({"HTTPS_PROXY": "http://us%40er:planted@a:3128"}, "http://us%40er:***@a:3128"),
        ({"HTTPS_PROXY": "http://planted-token@a:3128"}, "http://***@a:3128"),
        ({"HTTPS_PROXY": "http://:planted@a:3128"}, "http://***@a:3128"),
    ],
)
def test_the_proxy_is_chosen_and_shown(variables: dict[str, str], chosen: str | None) -> None:
    proxy = choose(URL, variables)
    assert (None if proxy is None else str(proxy)) == chosen


@pytest.mark.parametrize(
    ("variables", "chosen"),
    [
        ({"HTTP_PROXY": "http://a:1"}, None),  # a header of a CGI request could have set it
        ({"http_proxy": "http://a:1"}, "http://a:1"),
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://a:1"}, None),
        ({"ALL_PROXY": "http://a:1"}, "http://a:1"),
    ],
)
def test_the_proxy_of_plain_http_has_variables_of_its_own(variables: dict[str, str], chosen: str | None) -> None:
    proxy = choose("http://watchdog.example/ping", variables)
    assert (None if proxy is None else str(proxy)) == chosen


@pytest.mark.parametrize(
    ("host", "exempt", "is_direct"),
    [
        ("api.linq.example", "linq.example", True),
        ("api.linq.example", ".linq.example", True),
        ("api.linq.example", "api.linq.example", True),
        ("api.linq.example", ".api.linq.example", True),
        ("api.linq.example", "API.Linq.Example", True),
        ("API.linq.example", "linq.example.", True),
        ("api.linq.example.", "linq.example", True),
        ("api.linq.example", "*", True),
        ("api.linq.example", "other, linq.example", True),
        ("api.linq.example", "other linq.example", True),
        ("api.linq.example", "pi.linq.example", False),
        ("api.linq.example", "..linq.example", False),
        ("api.linq.example", "*.linq.example", False),
        ("api.linq.example", "other,*", False),
        ("api.linq.example", "linq.example:443", False),
        ("api.linq.example", "", False),
        ("api.linq.example", ".", False),
        ("10.9.9.9", "10.0.0.0/8", True),
        ("10.9.9.9", "10.9.9.9", True),
        ("10.9.9.9", "10.9.9.9/32", True),
        ("10.9.9.9", ",,10.9.9.9", True),
        ("10.9.9.9", "10.9.9.9/x", True),
        ("10.9.9.9", "11.0.0.0/8", False),
        ("10.9.9.9", "10.0.0.0/33", False),
        ("10.9.9.9", "10.0.0.0/0", False),
        ("10.9.9.9", "9.9", False),
        ("10.9.9.9", "10.9.9.9:443", False),
        ("[2001:db8::1]", "2001:db8::1", True),
        ("[2001:db8::1]", "2001:db8::/32", True),
        ("[2001:db8::1]", "[2001:db8::1]", False),
        ("[2001:db8::1]", "10.0.0.0/8", False),
    ],
)
def test_hosts_of_no_proxy_are_reached_directly(host: str, exempt: str, is_direct: bool) -> None:
    proxy = choose(f"https://{host}/", {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": exempt})
    assert (proxy is None) == is_direct


def test_no_proxy_in_lower_case_wins() -> None:
    variables = {"HTTPS_PROXY": "http://proxy:3128", "no_proxy": "other", "NO_PROXY": "linq.example"}
    assert choose(URL, variables) is not None
    assert choose(URL, variables | {"no_proxy": ""}) is None


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]"])
def test_loopback_is_never_proxied(host: str) -> None:
    every = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), "http://proxy:3128")
    assert choose(f"https://{host}:8443/", every) is None
    assert choose(f"http://{host}:8080/", every) is None


# A wrong proxy URL


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://:3128",
        "http://proxy:port",
        "http://proxy:0",
        "http://proxy:65536",
        "http://pro xy:3128",
        "http://proxy:3128/path",
        "http://[::g]:3128",
        "http://[1.2]:3128",
        '"http://proxy:3128"',
        "http://user:planted/secret@proxy:3128",
        "http://user:planted#secret@proxy:3128",
        "http://user:12#planted@proxy:3128",
        "http://user:planted@secret@proxy:3128",
        "http://user:planted secret@proxy:3128",
        "http://user:planted\n@proxy:3128",
    ],
)
def test_a_proxy_url_that_cannot_be_split_without_doubt_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        choose(URL, {"HTTPS_PROXY": url})
    message = str(refused.value)
    assert message.startswith("HTTPS_PROXY ")
    assert "it must be http://HOST:PORT or http://USER:PASSWORD@HOST:PORT" in message
    assert "percent-encoded" in message
    assert "planted" not in message
    assert "secret" not in message


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h", "SOCKS5"])
def test_a_socks_proxy_is_refused_by_name(scheme: str) -> None:
    with pytest.raises(UsageError) as refused:
        choose(URL, {"all_proxy": f"{scheme}://user:planted@proxy:1080"})
    assert str(refused.value).startswith(
        f"all_proxy is {scheme.lower()}://***@proxy:1080, but {scheme.upper()} proxies are not supported; it must be http://"
    )


@pytest.mark.parametrize(
    ("url", "sign"),
    [
        ("https://user:planted@proxy", "HTTPS_PROXY is https://***@proxy, but TLS to the proxy is not supported"),
        ("ftp://proxy:21", "HTTPS_PROXY is ftp://proxy:21, but FTP proxies are not supported"),
    ],
)
def test_other_kinds_of_proxies_are_refused_by_name(url: str, sign: str) -> None:
    with pytest.raises(UsageError) as refused:
        choose(URL, {"HTTPS_PROXY": url})
    assert str(refused.value).startswith(f"{sign}")


def test_a_variable_that_is_not_used_may_hold_anything() -> None:
    assert choose(URL, {"HTTPS_PROXY": "http://proxy:3128", "ALL_PROXY": "socks5://other:1080"}) is not None
    assert choose(URL, {"ALL_PROXY": "socks5://other:1080", "NO_PROXY": "linq.example"}) is None


_letters = st.characters(codec="utf-8")


@given(user=st.text(_letters, max_size=5), password=st.text(_letters, max_size=20), encoded=st.booleans())
def test_no_part_of_a_password_is_ever_shown(user: str, password: str, encoded: bool) -> None:
    secret = f"{password}-planted"
    login = f"{quote(user, safe='')}:{quote(secret, safe='')}" if encoded else f"{user}:{secret}"
    shown, proxy = "", None
    try:
        proxy = parse(f"http://{login}@proxy:3128", "HTTPS_PROXY")
    except UsageError as error:
        shown = str(error)
    else:
        assert proxy.host == "proxy"
        shown = f"{proxy} {proxy!r} {Linq(KEY, base_url='http://linq', proxy=proxy)!r}"
    assert "planted" not in shown
    assert proxy is not None or not encoded


def test_the_passwords_of_proxies_are_secrets_however_they_are_spelt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://{LOGIN}@proxy:3128")
    monkeypatch.setenv("ALL_PROXY", "socks5://planted-token@other")
    secrets = load().secrets
    assert {PASSWORD, quote(PASSWORD, safe=""), AUTHORIZATION.removeprefix("Basic "), "planted-token"} <= set(secrets)


def test_a_proxy_may_stand_in_the_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LINQ_API_KEY=key\nHTTPS_PROXY=http://file:3128\n")
    assert str(assembly.linq(load(), SystemClock()).proxy) == "http://file:3128"
    monkeypatch.setenv("HTTPS_PROXY", "http://environment:3128")
    assert str(assembly.linq(load(), SystemClock()).proxy) == "http://environment:3128"


# Never sent: the proxy opened no tunnel


async def refuse(visit: Visit, status: str) -> None:
    await visit.request()
    visit.send(f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nsorry".encode())


def refusing(status: str) -> Script:
    async def script(visit: Visit) -> None:
        await refuse(visit, status)

    script.__name__ = f"refusing_{status[:3]}"
    return script


async def repeats_the_login(visit: Visit) -> None:
    request = await visit.request()
    login = request.partition(b"Basic ")[2].partition(b"\r\n")[0]
    visit.send(b"HTTP/1.1 407 Not " + login + b"\r\nContent-Length: 0\r\n\r\n")


async def closes_at_once(visit: Visit) -> None:
    await visit.close()


async def closes_when_asked(visit: Visit) -> None:
    await visit.request()
    await visit.close()


async def resets_at_once(visit: Visit) -> None:
    visit.reset()


async def resets_unread(visit: Visit) -> None:
    visit.leave_unread()
    await visit.arrived()
    visit.reset()


async def resets_when_asked(visit: Visit) -> None:
    await visit.request()
    visit.reset()


async def closes_within_its_head(visit: Visit) -> None:
    await visit.request()
    visit.send(ESTABLISHED[:30])
    await visit.close()


async def resets_within_its_head(visit: Visit) -> None:
    await visit.request()
    visit.send(ESTABLISHED[:30])
    visit.reset()


async def speaks_another_protocol(visit: Visit) -> None:
    await visit.request()
    visit.send(b"\x05\xff" + bytes(range(256)) + b"\r\n\r\n")


async def speaks_first(visit: Visit) -> None:
    visit.send(b"220 mail.example ESMTP\r\n")


async def answers_without_end(visit: Visit) -> None:
    await visit.request()
    visit.send(b"HTTP/1.1 200 Yes\r\nX-Long: " + b"x" * 200_000)


async def answers_twice(visit: Visit) -> None:
    await visit.request()
    visit.send(ESTABLISHED + b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")


async def switches_protocols(visit: Visit) -> None:
    await visit.request()
    visit.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n")


async def answers_slowly(visit: Visit) -> None:
    await visit.request()
    await visit.trickle(b"HTTP/1.1 200 Yes\r\nX-Slow: " + b"x" * 1000)


async def says_100_for_ever(visit: Visit) -> None:
    await visit.request()
    while not await visit.closed_within(0.05):
        visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")


NO_TUNNEL: Final = [
    *map(refusing, ["301 Moved", "400 Bad", "403 Forbidden", "407 Login", "429 Slow", "500 No", "502 Bad", "504 Late"]),
    *(repeats_the_login, closes_at_once, closes_when_asked, resets_at_once, resets_unread, resets_when_asked),
    *(closes_within_its_head, resets_within_its_head, speaks_another_protocol, answers_without_end),
    *(answers_twice, switches_protocols),
]
TOO_LATE: Final = [Visit.until_closed, answers_slowly, says_100_for_ever, speaks_first]


@dataclass(frozen=True)
class Tried:
    """What came of a share through a proxy, and of the proxy's part in it."""

    outcome: int | LinqError
    proxy: RawServer
    server: RawServer


async def share_through(script: Script, base_url: str | None = None, *, seconds: float = PATIENCE) -> Tried:
    """One share through a proxy that does what its script says; the server, which has no faults, is `base_url`."""
    async with raw_server(keep_alive) as server, raw_server(script) as proxy:
        url = proxy.base_url.replace("://", f"://{LOGIN}@")
        async with (
            Linq(KEY, base_url=base_url or server.base_url, timeout=seconds, proxy=parse(url, "HTTPS_PROXY")) as linq,
            asyncio.timeout(PATIENCE + 5),
        ):
            outcome = await attempt(linq.share("chat"))
        await proxy.quiet()
        await server.quiet()
    return Tried(outcome, proxy, server)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("script", [*NO_TUNNEL, *TOO_LATE])
async def test_without_a_tunnel_a_share_is_never_sent(script: Script, scheme: str) -> None:
    seconds = 0.6 if script in TOO_LATE else PATIENCE
    tried = await share_through(script, f"{scheme}://linq.example:8443", seconds=seconds)
    assert type(tried.outcome) is NeverSent
    message = str(tried.outcome)
    assert message.isprintable()
    assert "the proxy http://some%40one:***@127.0.0.1:" in message
    assert "planted" not in message
    assert AUTHORIZATION.removeprefix("Basic ") not in message
    assert len(tried.proxy.visits) == 1
    assert KEY.encode() not in tried.proxy.received
    assert b"share_contact_card" not in tried.proxy.received


@pytest.mark.parametrize(
    ("script", "sign"),
    [
        (refusing("403 Forbidden"), "opened no tunnel: it answered 403 Forbidden"),
        (refusing("407 Login"), "opened no tunnel: it answered 407 Login (check its user and password)"),
        (closes_when_asked, "opened no tunnel: it closed the connection"),
        (speaks_another_protocol, "opened no tunnel: it did not answer in HTTP"),
        (answers_twice, "opened no tunnel: more came than its answer"),
    ],
)
async def test_the_error_says_what_the_proxy_did(script: Script, sign: str) -> None:
    tried = await share_through(script)
    assert sign in str(tried.outcome)


async def test_a_proxy_that_refuses_connections_is_never_sent_through(refusing_port: int) -> None:
    proxy = Proxy(host="127.0.0.1", port=refusing_port)
    async with Linq(KEY, base_url="https://linq.example", timeout=PATIENCE, proxy=proxy) as linq:
        outcome = await attempt(linq.share("chat"))
    assert type(outcome) is NeverSent
    assert f"the proxy http://127.0.0.1:{refusing_port} cannot be reached" in str(outcome)


async def test_a_proxy_whose_name_does_not_resolve_is_never_sent_through() -> None:
    proxy = Proxy(host="proxy.invalid", port=3128)
    async with Linq(KEY, base_url="https://linq.example", timeout=PATIENCE, proxy=proxy) as linq:
        outcome = await attempt(linq.share("chat"))
    assert type(outcome) is NeverSent
    assert "the proxy http://proxy.invalid:3128 cannot be reached" in str(outcome)


async def closes_the_tunnel(visit: Visit) -> None:
    await visit.request()
    visit.send(ESTABLISHED)
    await visit.close()


async def resets_the_tunnel(visit: Visit) -> None:
    await visit.request()
    visit.send(ESTABLISHED)
    await visit.arrived()
    visit.reset()


async def leads_nowhere(visit: Visit) -> None:
    await visit.request()
    visit.send(ESTABLISHED)


async def leads_to_another_protocol(visit: Visit) -> None:
    await visit.request()
    visit.send(ESTABLISHED)
    visit.received += await visit.reader.read(65536)
    visit.send(b"220 mail.example ESMTP\r\n")


async def leads_to_a_closed_door(visit: Visit) -> None:
    await visit.request()
    visit.send(ESTABLISHED)
    visit.received += await visit.reader.read(65536)
    await visit.close()


IN_THE_TUNNEL: Final = [closes_the_tunnel, resets_the_tunnel, leads_to_another_protocol, leads_to_a_closed_door]


@pytest.mark.parametrize("script", [*IN_THE_TUNNEL, leads_nowhere])
async def test_without_tls_in_the_tunnel_a_share_is_never_sent(script: Script) -> None:
    seconds = 0.6 if script is leads_nowhere else PATIENCE
    tried = await share_through(script, "https://linq.example", seconds=seconds)
    assert type(tried.outcome) is NeverSent
    assert asked(tried.proxy) == ["linq.example:443"]
    assert KEY.encode() not in tried.proxy.received


@pytest.mark.parametrize("script", [leads_to_another_protocol, leads_to_a_closed_door, leads_nowhere])
async def test_once_the_tunnel_stands_a_plain_request_in_it_is_perhaps_done(script: Script) -> None:
    """The mirror image of the test above: without TLS the request itself was what the tunnel took first."""
    seconds = 0.6 if script is leads_nowhere else PATIENCE
    tried = await share_through(script, "http://linq.example", seconds=seconds)
    assert type(tried.outcome) is PerhapsDone
    assert tried.proxy.requests == [SHARE]


async def test_a_share_that_is_given_up_while_the_proxy_is_asked_leaves_nothing_behind() -> None:
    reached = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.request()
        reached.set()

    async with raw_server(script) as proxy:
        async with Linq(KEY, base_url="https://linq.example", proxy=parse(proxy.base_url, "HTTPS_PROXY")) as linq:
            share = asyncio.create_task(linq.share("chat"))
            await reached.wait()
            share.cancel()
            with pytest.raises(asyncio.CancelledError):
                await share
        await proxy.quiet()
    assert asked(proxy) == ["linq.example:443"]


# The tunnel stands


async def test_the_proxy_is_asked_with_user_and_password_and_told_nothing_else() -> None:
    tried = await share_through(tunnel)
    assert tried.outcome == 202
    head = bytes(tried.proxy.visits[0].received).partition(b"\r\n\r\n")[0].decode().split("\r\n")
    server = tried.server.base_url.removeprefix("http://")
    assert head[0] == f"CONNECT {server} HTTP/1.1"
    assert f"Host: {server}" in head
    assert f"Proxy-Authorization: {AUTHORIZATION}" in head
    assert tried.server.requests == [SHARE]
    assert b"Proxy-Authorization" not in tried.server.received


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 204 Yes\r\nVia: x\r\n\r\n"]
)
async def test_any_2xx_opens_the_tunnel(answer: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.send(answer)
        await keep_alive(visit)

    tried = await share_through(script, "http://linq.example")
    assert tried.outcome == 202
    assert tried.proxy.requests == [SHARE]


async def test_several_shares_go_through_one_tunnel() -> None:
    async with raw_server(keep_alive) as server, raw_server(tunnel) as proxy:
        through = parse(proxy.base_url, "HTTPS_PROXY")
        async with Linq(KEY, base_url=server.base_url, connections=1, timeout=PATIENCE, proxy=through) as linq:
            assert [await linq.share("chat") for _ in range(3)] == [202] * 3
        await proxy.quiet()
    assert len(proxy.visits) == 1
    assert server.requests == [SHARE] * 3


# Commands and the heartbeat


@dataclass(frozen=True)
class Network:
    """Linq and a watchdog, which nobody reaches but through the proxy; the proxy alone resolves their names."""

    settings: dict[str, str]
    proxy: RawServer


@pytest.fixture(scope="session")
def linq_certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for linq.test, and its key."""
    folder = tmp_path_factory.mktemp("linq-certificate")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout key.pem -out cert.pem"
    )
    names = ["-subj", "/CN=linq.test", "-addext", "subjectAltName=DNS:linq.test"]
    usage = ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    subprocess.run([*command.split(), *names, *usage], cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@asynccontextmanager
async def network(settings: dict[str, str], certificate: tuple[Path, Path]) -> AsyncIterator[Network]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    simulator = int(settings["LINQ_BASE_URL"].rpartition(":")[2])
    async with raw_server(relay_to(simulator), tls) as front, raw_server(tunnel_to(front.port)) as proxy:
        own = {"LINQ_BASE_URL": "https://linq.test", "SSL_CERT_FILE": str(certificate[0])}
        url = proxy.base_url.replace("://", f"://{LOGIN}@")
        yield Network(settings | own | {"HTTPS_PROXY": url}, proxy)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_pass_goes_through_the_proxy(
    live: Scene, settings: dict[str, str], linq_certificate: tuple[Path, Path]
) -> None:
    for chat_id in ("a", "b"):
        await live.add_chat(chat_id)
    async with network(settings, linq_certificate) as net:
        ended = await share_worker("run", **net.settings)
        assert ended.code == 0, ended
        assert set(asked(net.proxy)) == {"linq.test:443"}
        assert net.proxy.received.count(AUTHORIZATION.encode()) == len(net.proxy.visits)
    assert sorted(live.called()) == ["a", "b"]
    assert await live.outcomes() == {"a": "shared", "b": "shared"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_check_names_the_proxy_without_its_password(
    live: Scene, settings: dict[str, str], linq_certificate: tuple[Path, Path]
) -> None:
    async with network(settings, linq_certificate) as net:
        shown = f"the proxy {net.proxy.base_url.replace('://', '://some%40one:***@')}"
        ended = await share_worker("check", "--json", **net.settings)
        findings = {finding["about"]: finding["found"] for finding in json.loads(ended.out)["findings"]}
        assert findings["key"] == f"accepted by https://linq.test through {shown}"
        direct = await share_worker("check", "--json", **net.settings | {"LINQ_BASE_URL": live.base_url})
        findings = {finding["about"]: finding["found"] for finding in json.loads(direct.out)["findings"]}
        assert findings["key"] == f"accepted by {live.base_url}", "loopback is never proxied"
    gone = await share_worker("check", "--json", **net.settings, SHARE_REQUEST_TIMEOUT="1")
    findings = {finding["about"]: finding["found"] for finding in json.loads(gone.out)["findings"]}
    assert findings["key"].startswith(f"https://linq.test did not list the cards through {shown}: ConnectError: ")


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("value", ["socks5://user:planted@proxy:1080", "http://user:planted/word@proxy:3128"])
async def test_a_wrong_proxy_ends_a_command_with_2_and_one_line_that_names_it(command: str, value: str) -> None:
    ended = await share_worker(command, LINQ_API_KEY="key", https_proxy=value)
    assert "https_proxy " in one_line(ended, 2)


async def test_the_heartbeat_goes_through_the_proxy_over_tls(
    linq_certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*linq_certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(linq_certificate[0]))
    async with raw_server(keep_alive, tls) as watchdog, raw_server(tunnel_to(watchdog.port)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.base_url.replace("://", f"://{LOGIN}@"))
        monkeypatch.setenv("HEARTBEAT_URL", "https://linq.test/planted-token")
        with capture_logs() as logs:
            await assembly.heartbeat(load()).send("start")
        await proxy.quiet()
        await watchdog.quiet()
    assert logs == []
    assert watchdog.requests == ["POST /planted-token/start HTTP/1.1"]
    assert asked(proxy) == ["linq.test:443"]
    assert AUTHORIZATION.encode() in proxy.received


async def test_a_plain_heartbeat_is_handed_to_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(keep_alive) as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url.replace("://", f"://{LOGIN}@"))
        monkeypatch.setenv("HEARTBEAT_URL", "http://watchdog.example/planted-token")
        with capture_logs() as logs:
            await assembly.heartbeat(load()).send("start")
        await proxy.quiet()
    assert logs == []
    assert proxy.requests == ["POST http://watchdog.example/planted-token/start HTTP/1.1"]
    assert AUTHORIZATION.encode() in proxy.received


async def test_a_heartbeat_whose_proxy_refuses_is_a_line() -> None:
    async with raw_server(refusing("407 Login")) as proxy:
        heartbeat = Heartbeat("https://watchdog.example/planted-token", proxy=parse(proxy.base_url, "HTTPS_PROXY"))
        with capture_logs() as logs:
            await heartbeat.send("start")
        await proxy.quiet()
    assert [(line["event"], line["reason"]) for line in logs] == [("heartbeat.failed", "ProxyError")]
    assert b"planted" not in proxy.received
