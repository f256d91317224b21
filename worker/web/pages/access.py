"""Who may look at the page, and who may see whole phone numbers.

On loopback everybody may look, unless the request came through a proxy or under another name: then, and on any other
address, STATUS_PASSWORD is asked for. Whole phone numbers are shown for the password only.
"""

import base64
import binascii
import hmac
import math
from collections import OrderedDict
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from worker.clock import Clock
from worker.proxy import is_loopback

FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers of a request that a proxy passed on."""

FREE_FAILURES: Final = 3
"""Wrong passwords of a client that are answered at once."""

LONGEST_WAIT: Final = 60.0
"""Seconds that a client waits at most after a wrong password; the wait doubles with each one."""

CLIENTS_REMEMBERED: Final = 1_000


class Access(Enum):
    """What a request may see."""

    ABSENT = "absent"
    """There is no page for it."""
    REFUSED = "refused"
    """The password is missing or wrong."""
    SLOWED = "slowed"
    """Too many wrong ones came from this client; the password was not looked at."""
    OPEN = "open"
    """The page, with phone numbers masked."""
    FULL = "full"
    """It came with the password: whole phone numbers too, if it asks for them."""


class Gate:
    """Judges requests; remembers who gave wrong passwords."""

    def __init__(self, host: str, password: str | None, clock: Clock) -> None:
        self._is_on_loopback = is_loopback(host)
        self._password = password
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    @property
    def has_password(self) -> bool:
        """Whether there is a password to see whole phone numbers with."""
        return self._password is not None

    @property
    def is_there(self) -> bool:
        """Whether anybody may look at the page."""
        return self._is_on_loopback or self._password is not None

    def judge(self, request: Request) -> Access:
        """What a request may see."""
        is_open = self._is_on_loopback and _is_local(request)
        if self._password is None:
            return Access.OPEN if is_open else Access.ABSENT
        given = _password_of(request)
        if given is None:
            return Access.OPEN if is_open else Access.REFUSED
        if self.seconds_to_wait(request) > 0:
            return Access.SLOWED
        if hmac.compare_digest(given.encode(), self._password.encode()):
            self._failures.pop(_client(request), None)
            return Access.FULL
        self._note_failure(_client(request))
        return Access.REFUSED

    def seconds_to_wait(self, request: Request) -> float:
        """How long the passwords of a request's client are not looked at."""
        failures, at = self._failures.get(_client(request), (0, -math.inf))
        wait = min(2.0 ** (failures - FREE_FAILURES), LONGEST_WAIT) if failures >= FREE_FAILURES else 0.0
        return max(0.0, at + wait - self._clock.monotonic())

    def _note_failure(self, client: str) -> None:
        failures, _ = self._failures.pop(client, (0, 0.0))
        self._failures[client] = (failures + 1, self._clock.monotonic())
        while len(self._failures) > CLIENTS_REMEMBERED:
            self._failures.popitem(last=False)


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


def _is_local(request: Request) -> bool:
    """Whether a request names this machine, and no proxy passed it on: a foreign name may lead a browser here.

    Browsers left HTTP/1.0 long ago; a proxy that adds no header may still use it.
    """
    if request.scope.get("http_version") == "1.0" or any(name in request.headers for name in FORWARDED):
        return False
    try:
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def _password_of(request: Request) -> str | None:
    """The password of basic authentication, whatever the name beside it; None without one."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
