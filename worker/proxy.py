"""Which HTTP proxy a request goes through, by the variables and rules of curl; values in, values out.

`choose` reads `https_proxy`, `all_proxy`, `no_proxy` and their upper-case forms from a mapping. Loopback is never
proxied. A proxy's password is in no printed form, no repr and no error message.
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from worker.errors import UsageError

NAMES: Final = {
    # HTTP_PROXY is left out as curl leaves it out: in a CGI script it holds a header that any client may set.
    "http": ("http_proxy", "all_proxy", "ALL_PROXY"),
    "https": ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
}
"""The variables that name a proxy, by the scheme of the requested URL; the first that is set and not empty counts."""

EXEMPTIONS: Final = ("no_proxy", "NO_PROXY")
"""The variables that list the hosts reached directly; the first that is set and not empty counts."""

VARIABLES: Final = tuple(dict.fromkeys([*NAMES["https"], *NAMES["http"], *EXEMPTIONS]))
"""Every variable that this module reads."""

DEFAULT_PORT: Final = 1080
"""curl's, for a proxy URL without a port."""

_URL: Final = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?"
    r"(?:(?P<user>[^\s:@/?#\"'\\]*)(?::(?P<password>[^\s@/?#\"'\\]*))?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?/?"
)
"""Stricter than curl: what could be split in two ways does not match, so that no part of a password becomes a host."""

_FORM: Final = (
    "it must be http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, "
    "with special characters in USER and PASSWORD percent-encoded (@ is %40)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """An HTTP proxy that understands CONNECT.

    Attributes:
        host: a name or an IP address, without brackets.
        user: for people, percent-encoded as the URL has it; empty without user, or if it may be a token (no password).
        authorization: the value of `Proxy-Authorization`; None without user and password.
    """

    host: str
    port: int
    user: str = ""
    authorization: str | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """The proxy's URL without user and password."""
        return f"http://{bracketed(self.host)}:{self.port}"

    def __str__(self) -> str:
        """The URL with its password hidden: `http://user:***@host:3128`."""
        if self.authorization is None:
            return self.address
        login = f"{self.user}:***@" if self.user else "***@"
        return self.address.replace("://", f"://{login}", 1)

    def __repr__(self) -> str:
        """Without the password."""
        return f"Proxy({str(self)!r})"


def choose(url: str, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for a URL; None if it is requested directly.

    Raises:
        UsageError: the variable that names the proxy holds something that cannot be used.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if is_loopback(host) or _is_exempt(host, _first(EXEMPTIONS, environment)[1]):
        return None
    name, value = _first(NAMES.get(parts.scheme, ()), environment)
    return parse(value, name) if value else None


def parse(url: str, name: str) -> Proxy:
    """Read a proxy URL; `name` is the variable that holds it, for the error message.

    Raises:
        UsageError: it is not the URL of an HTTP proxy. Nothing of user and password is in the message.
    """
    match = _URL.fullmatch(url.strip())
    if match is None:
        msg = f"{name} is not a proxy URL; {_FORM}"
        raise UsageError(msg)
    scheme = (match["scheme"] or "http").lower()
    user, password = match["user"] or "", match["password"]
    host = match["host"].strip("[]")
    if scheme != "http":
        kind = {"https": "TLS to the proxy is not supported (inside, the tunnel is encrypted)"}.get(
            scheme, f"{scheme.upper()} proxies are not supported"
        )
        shown = f"{scheme}://{'***@' if user or password else ''}{match['host']}:{match['port'] or ''}".rstrip(":")
        msg = f"{name} is {shown}, but {kind}; {_FORM}"
        raise UsageError(msg)
    port = int(match["port"] or DEFAULT_PORT)
    if not 0 < port < 65536 or (match["host"].startswith("[") and not _is_ipv6(host)):
        msg = f"{name} names no host and port that can exist; {_FORM}"
        raise UsageError(msg)
    return Proxy(
        host=host,
        port=port,
        user=user if password else "",
        authorization=_authorization(user, password or "") if user or password else None,
    )


def passwords(environment: Mapping[str, str]) -> list[str]:
    """The passwords in the variables, in every spelling, for logs to leave out; valid URLs or not."""
    return [secret for name in VARIABLES for secret in _spellings(environment.get(name, "")) if secret]


def is_loopback(host: str) -> bool:
    """True for `localhost` and for loopback addresses: this machine itself."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def bracketed(host: str) -> str:
    """A host as URLs write it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def _first(names: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, str]:
    """The first variable that is set and not empty, with its value."""
    return next(((name, environment[name]) for name in names if environment.get(name)), ("", ""))


def _is_exempt(host: str, exemptions: str) -> bool:
    """True if NO_PROXY covers a host: by its name or a domain above it, by its address or a network (CIDR).

    As in curl a `*` counts only alone, a leading dot changes nothing, and an entry with a port matches nothing.
    """
    if exemptions == "*":
        return True
    entries = re.split(r"[,\s]+", exemptions)
    try:
        address = ip_address(host)
    except ValueError:
        return any(_is_in_domain(host.lower(), entry.lower()) for entry in entries)
    return any(_is_in_network(address, entry) for entry in entries)


def _is_in_domain(host: str, entry: str) -> bool:
    domain = entry.removesuffix(".").removeprefix(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _is_in_network(address: IPv4Address | IPv6Address, entry: str) -> bool:
    network, _, bits = entry.partition("/")
    length = (int(bits) if bits.isdecimal() else 0) or address.max_prefixlen  # curl reads /0 as no length at all
    try:
        return address in ip_network(f"{network}/{length}", strict=False)
    except ValueError:
        return False


def _is_ipv6(host: str) -> bool:
    try:
        return isinstance(ip_address(host), IPv6Address)
    except ValueError:
        return False


def _authorization(user: str, password: str) -> str:
    return "Basic " + b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode("ascii")


def _spellings(value: str) -> Iterator[str]:
    login, at, _ = value.rpartition("@")
    if not at:
        return
    user, _, password = login.rpartition("://")[2].partition(":")
    secret = password or user
    yield from (secret, unquote(secret), _authorization(user, password).removeprefix("Basic "))
