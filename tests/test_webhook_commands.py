"""`webhooks subscribe`, `list` and `delete`: from no subscription to a verified one, and what can be in the way."""

import json
import re
from collections.abc import AsyncIterator

import pytest

from tests.commands import KEY, answered, one_line, share_worker
from worker.errors import UsageError
from worker.linq.client import Linq
from worker.linq.subscriptions import target_url
from worker.linq.webhooks import KINDS
from worker.simulator.account import Account
from worker.simulator.faults import Fault
from worker.simulator.server import serving

LINE = "+14155550100"
URL = "https://worker.example.com/webhooks/linq"
FULL_URL = f"{URL}?version=2026-02-03"


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
async def settings(account: Account) -> AsyncIterator[dict[str, str]]:
    async with serving(account) as base_url:
        yield {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": base_url}


# the URL


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (URL, FULL_URL),
        (FULL_URL, FULL_URL),
        (f"{URL}?", FULL_URL),
        (f"{URL}?team=a", f"{URL}?team=a&version=2026-02-03"),
        ("https://x.example", "https://x.example?version=2026-02-03"),
        ("http://127.0.0.1:8080/webhooks/linq", "http://127.0.0.1:8080/webhooks/linq?version=2026-02-03"),
        ("http://localhost/a", "http://localhost/a?version=2026-02-03"),
    ],
)
def test_the_url_asks_for_the_payload_version_that_the_worker_reads(typed: str, meant: str) -> None:
    assert target_url(typed) == meant


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("http://x.example/hook", "must be an https:// URL with a host"),
        ("https://", "must be an https:// URL with a host"),
        ("x.example/hook", "must be an https:// URL with a host"),
        ("https://x.example:0/", "must be an https:// URL with a host"),
        ("https://[::1/", "must be an https:// URL with a host"),
        ("https://x.example/a b", "must be an https:// URL with a host"),
        ("https://x.example/#a", "must be an https:// URL with a host and without #"),
        (f"{URL}?version=2025-01-01", "payload version '2025-01-01', but the worker reads 2026-02-03; leave version="),
        (f"{FULL_URL}&version=", "payload version '', but the worker reads 2026-02-03; leave version="),
    ],
)
def test_another_url_is_refused_with_what_to_do(typed: str, complaint: str) -> None:
    with pytest.raises(UsageError) as refused:
        target_url(typed)
    assert complaint in str(refused.value)


# subscribe


async def test_subscribe_prints_id_and_secret_once(account: Account, settings: dict[str, str]) -> None:
    ended = await share_worker("webhooks", "subscribe", URL, "--line", "+1 415 555 0100", **settings)
    assert (ended.code, ended.err) == (0, "")
    [made] = account.subscriptions.values()
    assert (made.target_url, made.subscribed_events, made.phone_numbers) == (FULL_URL, KINDS, (LINE,))
    assert f"Subscribed: {made.id}. Linq sends 13 kinds of events to {FULL_URL} ({LINE})." in ended.out
    assert re.findall(r"^  LINQ_WEBHOOK_SECRET=(.*)$", ended.out, re.MULTILINE) == [made.secret]
    assert ended.out.count(made.secret) == 1
    assert "does not show again" in ended.out
    assert "LINQ_WEBHOOK_SECRET_FILE" in ended.out


async def test_subscribe_as_json_is_one_document(account: Account, settings: dict[str, str]) -> None:
    ended = await share_worker("webhooks", "subscribe", URL, "--json", **settings)
    document = json.loads(ended.out)
    [made] = account.subscriptions.values()
    assert (document["id"], document["signing_secret"]) == (made.id, made.secret)
    assert (document["lines"], document["events"], document["missing_events"]) == ([], list(KINDS), [])


async def test_a_url_that_is_used_already_is_told_with_the_way_out(account: Account, settings: dict[str, str]) -> None:
    made = account.subscribe(FULL_URL, ["message.sent"])
    line = one_line(await share_worker("webhooks", "subscribe", URL, **settings), 1)
    assert f"{FULL_URL} has a subscription already ({made.id})" in line
    assert "'share-worker webhooks list'" in line
    assert f"'share-worker webhooks delete {made.id}'" in line


async def test_another_refusal_is_told_in_linqs_words(account: Account, settings: dict[str, str]) -> None:
    account.add_fault(Fault(path="create_subscription", status=409, message="Too many subscriptions"))
    line = one_line(await share_worker("webhooks", "subscribe", URL, **settings), 1)
    assert line.startswith("share-worker: not subscribed: 409/2014: Too many subscriptions (trace ")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(path="create_subscription", drop="after"),
        Fault(
            path="create_subscription",
            status=201,
            body='{"id": "s", "signing_secret": "whsec_planted',
            takes_effect=True,
        ),
        Fault(path="create_subscription", status=201, body='{"id": "s"}', takes_effect=True),
    ],
    ids=["no answer", "half an answer", "no secret"],
)
async def test_without_the_secret_one_deletes_and_subscribes_again(
    account: Account, settings: dict[str, str], fault: Fault
) -> None:
    account.add_fault(fault)
    line = one_line(await share_worker("webhooks", "subscribe", URL, **settings), 1)
    [made] = account.subscriptions
    assert "no signing secret came" in line
    assert f"'share-worker webhooks list', delete it with 'share-worker webhooks delete {made}', and subscribe" in line


async def test_a_request_that_never_left_is_no_lost_answer(settings: dict[str, str], refusing_port: int) -> None:
    settings["LINQ_BASE_URL"] = f"http://127.0.0.1:{refusing_port}"
    assert "not subscribed: ConnectError" in one_line(await share_worker("webhooks", "subscribe", URL, **settings), 1)


async def test_the_repr_of_a_subscription_holds_no_secret(settings: dict[str, str]) -> None:
    async with Linq(KEY, base_url=settings["LINQ_BASE_URL"]) as linq:
        made = await linq.subscribe(FULL_URL, KINDS)
    assert made.secret is not None
    assert made.secret not in repr(made)


# list and delete


async def test_list_shows_each_subscription_and_the_events_that_it_lacks(
    account: Account, settings: dict[str, str]
) -> None:
    assert "The account has none" in (await share_worker("webhooks", "list", **settings)).out
    whole = account.subscribe(FULL_URL, KINDS)
    partial = account.subscribe("https://x.example/", [kind for kind in KINDS if kind != "chat.created"], [LINE])
    foreign = account.subscribe("https://y.example/", ["poll.sent"])
    account.change_subscription(foreign.id, is_active=False)
    text = (await share_worker("webhooks", "list", **settings)).out
    rows = [re.split(r"  +", line) for line in text.splitlines()[:4]]
    assert rows == [
        ["id", "state", "lines", "url"],
        [whole.id, "active", "all lines", FULL_URL],
        [partial.id, "active", LINE, "https://x.example/"],
        [foreign.id, "not active", "all lines", "https://y.example/"],
    ]
    assert f"{partial.id} lacks events that the worker reads: chat.created\n" in text
    assert f"{foreign.id} lacks events that the worker reads: all\n" in text
    assert f"{whole.id} lacks" not in text
    listed = json.loads((await share_worker("webhooks", "list", "--json", **settings)).out)["subscriptions"]
    assert [(one["id"], one["is_active"], one["missing_events"]) for one in listed] == [
        (whole.id, True, []),
        (partial.id, True, ["chat.created"]),
        (foreign.id, False, list(KINDS)),
    ]
    assert whole.secret not in text + str(listed)


async def test_delete_shows_which_one_and_asks(account: Account, settings: dict[str, str]) -> None:
    made = account.subscribe(FULL_URL, KINDS)
    account.subscribe("https://x.example/", KINDS)
    refused = await answered("n", "webhooks", "delete", made.id, **settings)
    assert refused.code == 1
    assert f"Delete {made.id}? Linq then sends nothing to {FULL_URL} for it (all lines). [y/N]" in refused.err
    assert made.id in account.subscriptions
    ended = await share_worker("webhooks", "delete", made.id, "--yes", "--json", **settings)
    assert json.loads(ended.out)["deleted"]["id"] == made.id
    assert [one.target_url for one in account.subscriptions.values()] == ["https://x.example/"]


async def test_an_unknown_id_is_wrong_usage(settings: dict[str, str]) -> None:
    line = one_line(await share_worker("webhooks", "delete", "nobody", "--yes", **settings), 2)
    assert "Linq has no webhook subscription 'nobody'" in line


async def test_a_deletion_without_an_answer_is_not_told_as_done(account: Account, settings: dict[str, str]) -> None:
    made = account.subscribe(FULL_URL, KINDS)
    account.add_fault(Fault(path="delete_subscription", drop="before"))
    ended = await share_worker("webhooks", "delete", made.id, "--yes", "--json", **settings)
    assert ended.code == 1
    assert f"{made.id} may not be deleted" in json.loads(ended.out)["error"]
