"""The page of `serve` over real HTTP: what it says, to whom, and what it leaves out."""

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.databases import sqlite_only
from tests.page_world import EVENTS, NOW, PASSWORD, SALES, SUPPORT, Served, fill, running_pass, served
from worker import db
from worker.db.tables import chats, runs, share_attempts
from worker.outcomes import Outcome
from worker.rules.eligibility import Verdict
from worker.web.pages.numbers import Numbers

JSON = {"Accept": "application/json"}
VIEWS = ("/", "/attempts", "/chats", "/passes")


@pytest.fixture
async def page(engine: AsyncEngine) -> AsyncIterator[Served]:
    await fill(engine)
    async with served(engine, password=PASSWORD) as page:
        yield page


async def get(page: Served, path: str, *, password: str | None = None, **headers: str) -> httpx.Response:
    auth = {"Authorization": "Basic " + base64.b64encode(f"x:{password}".encode()).decode()} if password else {}
    async with httpx.AsyncClient(base_url=page.url) as client:
        return await client.get(path, headers={"Accept": "text/html"} | auth | headers)


async def document(page: Served, path: str, **options: str) -> dict[str, object]:
    answer = await get(page, path, **JSON, **options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    found: dict[str, object] = answer.json()
    return found


async def settled(page: Served) -> dict[str, object]:
    """The overview, once everything was counted."""
    while True:
        found = await document(page, "/")
        if found["state"] != "reading" and found["verdicts"] is not None and found["lines"] is not None:
            return found


async def shows(page: Served, path: str, words: str) -> None:
    """Wait until a view shows the words: figures are read beside it."""
    while words not in (await get(page, path)).text:
        pass


async def count(engine: AsyncEngine, where: str) -> int:
    async with db.read(engine) as connection:
        counting = text(f"SELECT count(*) FROM share_attempts WHERE {where}")  # noqa: S608 -- of this file
        return int((await connection.execute(counting)).scalar_one())


# What it says


async def test_the_overview_says_how_it_stands_with_trouble_first(page: Served) -> None:
    found = await settled(page)
    assert found["state"] == "attention"
    assert [(each["kind"], each["line"], each["chats"]) for each in found["troubles"]] == [  # type: ignore[attr-defined] # a list
        ("card", "+141***03", 31),
        ("card", "+141***04", 18),
    ]
    assert found["last_pass"]["status"] == "completed"  # type: ignore[index] # a dict
    assert found["next_scheduled"] == "2026-03-11T09:00:00+00:00"
    assert found["sources"]["webhooks"]["heard_at"] == "2026-03-10T10:18:00+00:00"  # type: ignore[index] # a dict
    verdicts = found["verdicts"]["chats"]  # type: ignore[index] # a dict
    assert sum(verdicts.values()) == 400
    today = found["days"][-1]  # type: ignore[index] # a list
    assert today == {
        "share_day": "2026-03-10", "claimed": 0, "shared": 280, "rejected": 8, "unknown": 6, "unsent": 0,
    }  # fmt: skip
    html = (await get(page, "/")).text
    assert html.index("What is wrong") < html.index("Last pass") < html.index("Why chats are not due")
    assert '<a href="/attempts?since=2026-02-26&amp;until=2026-02-26" aria-label="2026-02-26: ' in html
    assert f'<a href="/chats?verdict={Verdict.NO_OUTBOUND}">' in html


async def test_each_trouble_makes_the_state_what_it_is(engine: AsyncEngine) -> None:
    async with served(engine) as page:
        assert (await settled(page))["state"] == "waiting"
    ended = {"trigger": "schedule", "share_day": NOW.date(), "worker": "w", "started_at": NOW - timedelta(hours=1)}
    ended |= {"finished_at": NOW - timedelta(minutes=50), "tally": None}
    async with db.write(engine) as connection:
        await connection.execute(insert(runs).values(id="1", status="completed", detail=None, **ended))
    async with served(engine) as page:
        assert (await settled(page))["state"] == "well"
    bad = ended | {"finished_at": NOW - timedelta(minutes=10)}
    async with db.write(engine) as connection:
        await connection.execute(insert(runs).values(id="2", status="failed", detail="Linq is down", **bad))
    async with served(engine) as page:
        found = await settled(page)
        assert (found["state"], found["troubles"][0]["reason"]) == ("trouble", "the pass failed: Linq is down")  # type: ignore[index] # a list


@sqlite_only
async def test_a_database_that_fails_is_said_and_the_figures_stay(engine: AsyncEngine) -> None:
    await fill(engine)
    async with served(engine) as page:
        await settled(page)
        async with db.write(engine) as connection:
            await connection.execute(text("ALTER TABLE runs RENAME TO away"))
        page.clock.move(hours=1)
        html = (await get(page, "/")).text
        assert ">Unknown</h1>" in html
        assert "no such table" in html
        assert "280 shared" in html
        answer = await get(page, "/passes", **JSON)
        assert answer.status_code == 503
        assert "no such table" in answer.json()["error"]


async def test_attempts_are_filtered_and_paged_by_key_without_loss(page: Served, engine: AsyncEngine) -> None:
    query = "/attempts?since=2026-03-08&outcome=rejected&outcome=unknown&code=1007"
    first = await document(page, query)
    assert {each["outcome"] for each in first["attempts"]} == {"rejected"}  # type: ignore[attr-defined] # a list
    seen: list[tuple[str, str]] = []
    path: object = "/attempts?since=2026-03-09"
    while path is not None:
        found = await document(page, str(path))
        seen += [(each["share_day"], each["chat_id"]) for each in found["attempts"]]  # type: ignore[attr-defined] # a list
        path = found["older"]
    assert len(seen) == len(set(seen)) == await count(engine, "share_day >= '2026-03-09'")
    assert seen == sorted(seen, reverse=True)
    last = (await document(page, "/passes"))["runs"][0]  # type: ignore[index] # a list
    of_the_pass = await document(page, f"/attempts?run={last['id']}&line=%2B141***02")
    async with httpx.AsyncClient(base_url=page.url) as client:
        html = (await client.get(f"/attempts?run={last['id']}")).text
    assert "share-worker attempts --run" in html
    assert of_the_pass["attempts"]


async def test_chats_are_found_by_verdict_line_id_and_handle(page: Served, engine: AsyncEngine) -> None:
    paused = await document(page, "/chats?verdict=paused")
    assert {each["verdict"] for each in paused["chats"]} == {"paused"}  # type: ignore[attr-defined] # a list
    assert len(paused["chats"]) == 4  # type: ignore[arg-type] # a list
    events = await document(page, "/chats?line=%2B141***03")
    assert {each["from_number"] for each in events["chats"]} == {"+141***03"}  # type: ignore[attr-defined] # a list
    assert len(events["chats"]) == 31  # type: ignore[arg-type] # a list
    known = str(paused["chats"][0]["id"])  # type: ignore[index] # a list
    assert [each["id"] for each in (await document(page, f"/chats?q={known[:8]}"))["chats"]] == [known]  # type: ignore[attr-defined] # a list
    by_handle = await document(page, "/chats?q=%2B12125550007")
    assert [each["handle"] for each in by_handle["chats"]] == ["+121***07"]  # type: ignore[attr-defined] # a list
    assert len((await document(page, f"/chats?q=%2B{SUPPORT[1:]}"))["chats"]) == 50  # type: ignore[arg-type] # a list
    assert (await document(page, "/chats?q=nobody"))["chats"] == []


async def test_a_masked_line_is_known_from_the_first_request_on(page: Served) -> None:
    assert len((await document(page, "/chats?line=%2B141***03"))["chats"]) == 31  # type: ignore[arg-type] # a list


async def test_a_rare_verdict_is_found_however_many_chats_come_before_it(
    page: Served, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.questions.chat_list.LOOKED_AT", 20)
    async with db.write(engine) as connection:
        await connection.execute(insert(chats).values(id="zzz", from_number=SALES, missing_at=NOW))
    path: object = "/chats?verdict=missing"
    pages, found = 0, []
    while path is not None:
        answer = await document(page, str(path))
        found += [each["id"] for each in answer["chats"]]  # type: ignore[attr-defined] # a list
        path, pages = answer["next"], pages + 1
    assert (found, pages) == (["zzz"], 21)


async def test_a_chat_is_explained_with_its_history(page: Served) -> None:
    rejected = (await document(page, "/attempts?outcome=rejected"))["attempts"][0]  # type: ignore[index] # a list
    path = f"/chats/{rejected['chat_id']}"
    found = await document(page, path)
    assert found["verdict"] == "already_today"
    assert found["attempts"][0]["error_code"] == 1007  # type: ignore[index] # a list
    html = (await get(page, path)).text
    assert "Next due" in html
    assert "A card of +141***01 was shared in this chat a moment ago" in html
    assert f"share-worker explain {rejected['chat_id']}" in html
    assert '<time datetime="2026-03-10T09:00:' in html
    assert 'UTC">2026-03-10 10:00:' in html


async def test_an_unknown_chat_or_pass_is_said_with_similar_ones(page: Served) -> None:
    known = (await document(page, "/chats"))["chats"][0]["id"]  # type: ignore[index] # a list
    answer = await get(page, f"/chats/{known[:-1]}")
    assert answer.status_code == 404
    assert known in answer.text
    assert (await get(page, "/passes/nothing", **JSON)).json()["error"].startswith("there is no pass 'nothing'")


async def test_an_id_of_any_form_has_its_address(page: Served, engine: AsyncEngine) -> None:
    odd = "a/b?c&d <e> %2F;é"
    async with db.write(engine) as connection:
        await connection.execute(insert(chats).values(id=odd, from_number=SALES))
    html = (await get(page, "/chats?q=a/b")).text
    link = html.partition('href="/chats/a/')[2].partition('"')[0]
    answer = await get(page, "/chats/a/" + link)
    assert answer.status_code == 200
    assert "a/b?c&amp;d &lt;e&gt; %2F;é" in answer.text


async def test_a_pass_that_runs_shows_how_far_it_is(page: Served, engine: AsyncEngine) -> None:
    async with db.write(engine) as connection:
        await connection.execute(insert(runs).values(running_pass()))
    page.progress.due = 1_200
    page.progress.outcomes[Outcome.SHARED] = 300
    path = f"/passes/{running_pass()['id']}"
    for view in ("/", path):
        await shows(page, view, "300 of 1,200 attempted, 25 %")
    async with db.write(engine) as connection:
        await connection.execute(update(runs).where(runs.c.status == "running").values(worker="another:1"))
        row = running_pass() | {"chat_id": "other", "sequence": 0, "outcome": "shared", "run_id": running_pass()["id"]}
        names = share_attempts.c.keys()
        of_it = {name: value for name, value in row.items() if name in names} | {"claimed_at": NOW}
        await connection.execute(insert(share_attempts).values(of_it))
    page.clock.move(minutes=5)
    await shows(page, "/", "1 attempted so far")


@sqlite_only
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/attempts?since=yesterday", "since is 'yesterday'; it must be a day such as 2026-03-10"),
        ("/attempts?outcome=shred", "outcome is 'shred'; it must be one of claimed, shared"),
        ("/attempts?code=x", "code is 'x'; it must be a whole number"),
        ("/attempts?before=x", "before is not the end of a page"),
        ("/passes?before=2026-01-01T00:00/x", "before is not the end of a page"),
        ("/chats?verdict=duee", "verdict is 'duee'; it must be one of paused"),
    ],
)
async def test_a_wrong_address_says_what_is_wrong(page: Served, path: str, said: str) -> None:
    answer = await get(page, path, **JSON)
    assert answer.status_code == 400
    assert answer.json()["errors"][0].startswith(said)
    assert said.replace("'", "&#39;") in (await get(page, path)).text


async def test_what_takes_too_long_is_ended_by_the_database_and_said(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.web.pages.reader.PAGE_SECONDS", 0.1)
    monkeypatch.setattr("worker.web.pages.reader.COUNT_SECONDS", 0.1)
    async with db.write(engine) as connection:
        await connection.execute(insert(chats).values(id="chat", from_number=SALES))
        await connection.execute(text("ALTER TABLE chats RENAME TO away"))
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        view = f"CREATE VIEW chats AS SELECT * FROM away WHERE 0 < ({endless})"  # noqa: S608 -- of this file
        await connection.execute(text(view))
    async with served(engine) as page:
        answer = await get(page, "/chats?verdict=dormant")
        assert answer.status_code == 503
        assert "longer than a page may take" in answer.text
        await shows(page, "/", "needs longer than 0.1 s")
        await shows(page, "/", "The chats are being counted")


# To whom


@sqlite_only
async def test_no_phone_number_is_shown_without_the_password(page: Served) -> None:
    await settled(page)
    rejected = (await document(page, "/attempts?outcome=rejected"))["attempts"][0]  # type: ignore[index] # a list
    paths = [*VIEWS, "/chats?q=%2B12125550007", f"/chats/{rejected['chat_id']}", f"/passes/{rejected['run_id']}"]
    for path in paths:
        for headers in ({}, JSON):
            shown = (await get(page, path, **headers)).text.replace("%2B12125550007", "").replace("+12125550007", "")
            assert "+1415555" not in shown
            assert "+1212555" not in shown
            asked = await get(page, path + ("&" if "?" in path else "?") + "numbers=whole", **headers)
            assert asked.status_code == 401
    whole = await get(page, f"/chats/{rejected['chat_id']}?numbers=whole", password=PASSWORD)
    assert "+12125550" in whole.text
    assert 'href="/?numbers=whole"' in whole.text
    lines = (await document(page, "/?numbers=whole", password=PASSWORD))["lines"]
    assert EVENTS in {line["line"] for line in lines}  # type: ignore[attr-defined] # a list


def test_lines_that_look_alike_when_masked_have_names_of_their_own() -> None:
    alike = ["+14155550101", "+14155559901", "+442071234567"]
    numbers = Numbers(are_shown=False, lines=alike)
    assert [numbers.line(line) for line in alike] == ["+141***01", "+141***01 (2)", "+442***67"]
    assert numbers.lines_named("+141***01 (2)") == ["+14155559901"]
    assert numbers.lines_named("+14155550101") == ["+14155550101"]
    assert numbers.text("someone@example.com, 14155550101") == "so***@example.com, 14155550101"
    assert numbers.text("14155550101") == "141***01"


@sqlite_only
async def test_beyond_loopback_the_page_is_there_for_the_password_only(engine: AsyncEngine) -> None:
    await fill(engine, number=20, days=2)
    async with served(engine, host="0.0.0.0") as page:  # noqa: S104 -- what the setting says; it listens on loopback
        for path in (*VIEWS, "/chats/x", "/passes/x", "/static/style.css"):
            assert (await get(page, path, password=PASSWORD)).status_code == 404
        assert (await get(page, "/livez")).status_code == 200
    async with served(engine, host="0.0.0.0", password=PASSWORD) as page:  # noqa: S104 -- the same
        for path in (*VIEWS, "/chats/x", "/passes/x"):
            refused = await get(page, path)
            assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")
            assert "Attempts" not in refused.text
        for path in VIEWS:
            assert (await get(page, path, password=PASSWORD)).status_code == 200


@sqlite_only
@pytest.mark.parametrize(
    "header",
    [{"X-Forwarded-For": "203.0.113.9"}, {"Forwarded": "for=203.0.113.9"}, {"Host": "evil.example"}, {"Host": "[::"}],
)
async def test_what_comes_through_a_proxy_or_under_another_name_needs_the_password(
    engine: AsyncEngine, header: dict[str, str]
) -> None:
    async with served(engine) as page:
        assert (await get(page, "/", **header)).status_code == 404
        assert (await get(page, "/", Host="localhost:8080")).status_code == 200
    async with served(engine, password=PASSWORD) as page:
        assert (await get(page, "/", **header)).status_code == 401
        assert (await get(page, "/", password=PASSWORD, **header)).status_code == 200


@sqlite_only
async def test_a_proxy_that_adds_no_header_is_known_by_its_old_http(engine: AsyncEngine) -> None:
    async with served(engine) as page:
        host, port = httpx.URL(page.url).host, httpx.URL(page.url).port
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"GET / HTTP/1.0\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        assert (await reader.readline()).split()[1] == b"404"
        writer.close()
        await writer.wait_closed()


@sqlite_only
async def test_wrong_passwords_are_slowed_and_the_right_one_waits_too(engine: AsyncEngine) -> None:
    async with served(engine, host="0.0.0.0", password=PASSWORD) as page:  # noqa: S104 -- what the setting says
        assert [(await get(page, "/", password="wrong-word")).status_code for _ in range(3)] == [401] * 3
        slowed = await get(page, "/", password=PASSWORD)
        assert (slowed.status_code, slowed.headers["retry-after"]) == (429, "1")
        page.clock.move(seconds=1)
        assert (await get(page, "/", password="wrong-word")).status_code == 401
        assert (await get(page, "/", password=PASSWORD)).headers["retry-after"] == "2"
        page.clock.move(seconds=2)
        assert (await get(page, "/", password=PASSWORD)).status_code == 200
        assert (await get(page, "/", password="wrong-word")).status_code == 401
        assert (await get(page, "/", password=PASSWORD)).status_code == 200
        assert (await get(page, "/", Authorization="Basic ###")).status_code == 401


@sqlite_only
async def test_every_answer_forbids_what_the_page_does_not_need(page: Served) -> None:
    for path in (*VIEWS, "/chats/none", "/static/htmx.min.js"):
        headers = (await get(page, path)).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; ")
        assert "unsafe" not in policy
        assert headers["referrer-policy"] == "no-referrer"
    async with httpx.AsyncClient(base_url=page.url) as client:
        for path in (*VIEWS, "/chats/none", "/passes/none"):
            assert (await client.post(path)).status_code == 405
