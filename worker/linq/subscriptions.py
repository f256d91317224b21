"""What the worker asks of a webhook subscription: its URL, and the events that it must have. No I/O."""

from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

from worker.errors import UsageError
from worker.linq.answers import Subscription
from worker.linq.webhooks import KINDS, PAYLOAD_VERSION
from worker.proxy import is_loopback

EXAMPLE: Final = "https://worker.example.com/webhooks/linq"


def target_url(typed: str) -> str:
    """The URL to subscribe with: the typed one, with the payload version that the worker reads.

    Raises:
        UsageError: it is no https:// URL with a host (http:// is allowed for this machine), has a fragment, or names
            another version.
    """
    parts = _parts(typed)
    if parts is None:
        msg = f"the URL is {typed!r}, but must be an https:// URL with a host and without #, such as {EXAMPLE}"
        raise UsageError(msg)
    versions = {value for name, value in parse_qsl(parts.query, keep_blank_values=True) if name == "version"}
    if not versions:
        query = f"{parts.query}&version={PAYLOAD_VERSION}" if parts.query else f"version={PAYLOAD_VERSION}"
        return urlunsplit(parts._replace(query=query))
    if versions != {PAYLOAD_VERSION}:
        wrong = ", ".join(sorted(map(repr, versions - {PAYLOAD_VERSION})))
        msg = f"the URL asks for payload version {wrong}, but the worker reads {PAYLOAD_VERSION}; leave version= out"
        raise UsageError(msg)
    return typed


def _parts(url: str) -> SplitResult | None:
    """A URL that Linq can be given, in parts; None if it is none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or port == 0 or not url.isascii() or not url.isprintable() or set(url) & set(" #"):
        return None
    return parts if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)) else None


def missing_kinds(subscription: Subscription) -> list[str]:
    """The events that the worker needs and the subscription does not have."""
    return [kind for kind in KINDS if kind not in subscription.kinds]
