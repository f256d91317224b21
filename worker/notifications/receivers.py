"""Who is told of troubles: the receivers of NOTIFY_URL, through Apprise.

Apprise blocks, so each sending has a thread, and as much time as `SECONDS`. A receiver is named by its number and its
scheme (`1:slack`): its URL is a secret, and so is what Apprise logs.
"""

import asyncio
import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from worker.errors import UsageError
from worker.proxy import Proxy

if TYPE_CHECKING:
    from apprise import Apprise

SECONDS: Final = 10.0
"""How long a receiver may take to accept a message."""

TALKATIVE: Final = ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib")
"""Loggers that name URLs: at the level debug they would print tokens."""

NOT_INSTALLED: Final = "NOTIFY_URL needs Apprise, which is not installed; run pip install 'linq-share-worker[notify]'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What a receiver is told."""

    title: str
    body: str
    is_bad: bool = True
    """False: what it tells is good news, or a test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receiver:
    """One URL of NOTIFY_URL."""

    name: str
    """Its number and scheme: `1:slack`."""
    service: "Apprise" = field(repr=False)
    busy: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while a thread sends: one that hangs is not joined by another one."""


def make_receivers(urls: Sequence[str], proxy_for: Callable[[str], Proxy | None]) -> list[Receiver]:
    """The receivers of some Apprise URLs; without any, Apprise is not even imported.

    Raises:
        UsageError: Apprise is not installed, a URL is none of its URLs, or a proxy's variable is wrong.
    """
    if not urls:
        return []
    try:
        import apprise  # noqa: PLC0415 -- slow to import, and not everybody has it
    except ImportError as error:
        raise UsageError(NOT_INSTALLED) from error
    from worker.notifications.outward import route_requests  # noqa: PLC0415 -- the same

    for name in TALKATIVE:
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL)
        logger.propagate = False
    proxy_for("https://notify.invalid/")  # a wrong variable ends the command now, not at the first message
    route_requests(proxy_for)
    # Without a time limit of its own Apprise sends in the thread at hand, which is a daemon; its threads are not.
    asset = apprise.AppriseAsset(
        app_id="share worker",
        app_desc="share worker",
        app_url="",
        async_mode=False,
        service_timeout=0,
        storage_mode="memory",
    )
    receivers = []
    for number, url in enumerate(urls, start=1):
        service = apprise.Apprise(asset=asset)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a hundred plug-ins, which are loaded now
            is_known = service.add(url)
        if not is_known:
            which = f", URL {number} of {len(urls)}," if len(urls) > 1 else ""
            msg = f"NOTIFY_URL{which} is not a URL that Apprise knows; see https://appriseit.com/services/ for its form"
            raise UsageError(msg)
        receivers.append(Receiver(name=f"{number}:{url.partition('://')[0].lower()}", service=service))
    return receivers


async def deliver(receiver: Receiver, message: Message) -> str | None:
    """Send a message; None if it was accepted, else why not, without any URL. Raises nothing, and takes no longer."""
    if not receiver.busy.acquire(blocking=False):
        return "the last message to it is still on its way"
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str | None] = loop.create_future()

    def tell(outcome: str | None) -> None:
        if not done.done():
            done.set_result(outcome)

    def work() -> None:
        outcome = _send(receiver, message)
        receiver.busy.release()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, outcome)

    # A daemon: whatever hangs in it does not keep the process from ending.
    try:
        threading.Thread(target=work, name=f"notify {receiver.name}", daemon=True).start()
    except RuntimeError:
        receiver.busy.release()
        return "no thread could be started"
    try:
        async with asyncio.timeout(SECONDS):
            return await done
    except TimeoutError:
        return f"no answer within {SECONDS:g} s"


def _send(receiver: Receiver, message: Message) -> str | None:
    """Send in this thread."""
    from apprise import NotifyFormat, NotifyType  # noqa: PLC0415 -- imported where the receiver was made

    from worker.notifications.outward import forget_outcome, last_outcome  # noqa: PLC0415 -- the same

    forget_outcome()
    kind = NotifyType.WARNING if message.is_bad else NotifyType.SUCCESS
    try:
        if receiver.service.notify(
            body=message.body, title=message.title, notify_type=kind, body_format=NotifyFormat.TEXT
        ):
            return None
    except Exception as error:  # noqa: BLE001 -- whatever a plug-in does, the pass goes on
        return type(error).__name__
    return last_outcome() or "it did not accept the message"
