"""How the HTTP requests of `requests`, which Apprise is built on, leave the worker.

They go through the proxy that the worker's own rules name, and trust SSL_CERT_FILE, as the requests to Linq do: by
itself `requests` reads other variables, and knows nothing of `.env`. Imported only where Apprise is needed.
"""

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import requests.adapters
import requests.sessions

from worker.proxy import Proxy

LONGEST_BODY: Final = 65_536
BODY_SECONDS: Final = 3.0
"""How much of an answer's body is read: what a plug-in may want of it is a short JSON document."""

_last = threading.local()


class _Adapter(requests.adapters.HTTPAdapter):
    """Sends through the worker's proxy, and remembers for its thread what came of the last request."""

    def __init__(self, proxy_for: Callable[[str], Proxy | None]) -> None:
        super().__init__()
        self._proxy_for = proxy_for
        self._proxy: Proxy | None = None

    def send(  # noqa: PLR0917 -- the signature of requests
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002 -- no body is left to the plug-in
        timeout: float | tuple[float | None, float | None] | None = None,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,  # noqa: ARG002 -- those of the environment
    ) -> requests.Response:
        """Send one request."""
        url = request.url or ""
        self._proxy = self._proxy_for(url)
        route = {urlsplit(url).scheme: self._proxy.address} if self._proxy else {}
        try:
            answer = super().send(request, True, timeout, _trusted() if verify else False, cert, route)
        except Exception as error:
            _last.outcome = type(error).__name__
            raise
        _last.outcome = f"it answered {answer.status_code}"
        answer._content = _beginning(answer)  # noqa: SLF001 -- so nothing reads on
        answer.close()
        return answer

    def proxy_headers(self, proxy: str) -> dict[str, str]:  # noqa: ARG002 -- the signature of requests
        """The login at the proxy."""
        login = self._proxy.authorization if self._proxy else None
        return {"Proxy-Authorization": login} if login else {}


def _beginning(answer: requests.Response) -> bytes:
    """What there is of the body, within limits: the status has said what counts, and a body may be slow, or endless."""
    ends = time.monotonic() + BODY_SECONDS
    body = bytearray()
    with contextlib.suppress(requests.RequestException):
        for part in answer.iter_content(1):
            body += part
            if len(body) >= LONGEST_BODY or time.monotonic() > ends:
                break
    return bytes(body)


def _trusted() -> str | bool:
    """The file that SSL_CERT_FILE names, or else True: the authorities that `certifi` lists."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile if paths.cafile and paths.cafile != paths.openssl_cafile else True


def route_requests(proxy_for: Callable[[str], Proxy | None]) -> None:
    """Let all requests of this process that `requests` sends leave by the worker's rules."""
    # What a Session mounts. Apprise's plug-ins make their sessions themselves, so there is no other place for it.
    vars(requests.sessions)["HTTPAdapter"] = partial(_Adapter, proxy_for)


def last_outcome() -> str | None:
    """What came of the last request of this thread: a status, or the kind of an error; None without any."""
    outcome: str | None = getattr(_last, "outcome", None)
    return outcome


def forget_outcome() -> None:
    """Begin a sending in this thread."""
    _last.outcome = None
