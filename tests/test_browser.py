"""The page in a real browser: what is on the screen, where links lead, a pass that moves, the password, and no script.

Chromium comes from the system; the set-up installs it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.browsers import chromium
from tests.databases import sqlite_only
from tests.page_world import PASSWORD, Served, fill, running_pass, served
from worker import db
from worker.db.tables import runs
from worker.outcomes import Outcome
from worker.rules.eligibility import Verdict

pytestmark = [sqlite_only, pytest.mark.browser]

expect.set_options(timeout=30_000)  # a machine that is busy; what is right appears at once

VIEWS = ("/", "/attempts?outcome=rejected", "/chats", "/passes")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright, chromium(playwright) as browser:
        yield browser


@pytest.fixture
async def site(engine: AsyncEngine) -> AsyncIterator[Served]:
    await fill(engine)
    async with served(engine, password=PASSWORD) as site:
        yield site


@asynccontextmanager
async def watched(browser: Browser, site: Served, **options: object) -> AsyncIterator[Page]:
    """A page that may complain of nothing and ask nobody but the worker."""
    context: BrowserContext = await browser.new_context(base_url=site.url, **options)  # type: ignore[arg-type] # playwright's own options
    page = await context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(site.url) else wrong.append(request.url))
    yield page
    await context.close()
    assert wrong == []


async def settle(page: Page) -> None:
    """Open the overview, and wait until everything was counted: it refreshes itself."""
    await page.goto("/")
    await expect(page.get_by_role("region", name="Lines")).to_be_visible(timeout=20_000)
    await expect(page.locator(".reasons li").first).to_be_visible(timeout=20_000)


async def test_trouble_is_seen_first_and_every_figure_leads_to_its_rows(browser: Browser, site: Served) -> None:
    async with watched(browser, site) as page:
        await settle(page)
        await expect(page.get_by_role("heading", level=1)).to_have_text("Attention")
        await expect(page.locator("main > section").nth(1)).to_contain_text(
            "Line +141***03: it has no active contact card"
        )
        await expect(page.get_by_text("280 shared", exact=True)).to_be_visible()
        await expect(page.locator(".tiles")).to_contain_text("in 23 h")

        await page.get_by_role("link", name="8 rejected", exact=True).click()
        await expect(page.locator("tbody tr")).to_have_count(8)
        await expect(page.locator("tbody tr").first).to_contain_text("429/1007")

        await page.go_back()
        await page.get_by_role("link", name=f"{Verdict.NO_OUTBOUND} 25").click()
        await expect(page.locator("tbody tr")).to_have_count(25)
        await page.locator("tbody a").first.click()
        await expect(page.locator(".verdict-box")).to_contain_text("No outbound message is known yet.")
        await expect(page.locator("tr.holds")).to_contain_text("no outbound message known")

        await page.get_by_role("link", name="Overview").click()
        bar = page.get_by_role("link", name="2026-02-26: ")
        await bar.focus()
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(f"{site.url}/attempts?since=2026-02-26&until=2026-02-26")
        await expect(page.get_by_label("From")).to_have_value("2026-02-26")


async def test_chats_are_searched_and_attempts_filtered_by_their_forms(browser: Browser, site: Served) -> None:
    async with watched(browser, site) as page:
        await page.goto("/chats")
        await page.get_by_label("Id, handle or line").fill("+12125550007")
        await page.keyboard.press("Enter")
        await expect(page.locator("tbody tr")).to_have_count(1)
        await expect(page.locator("tbody")).to_contain_text("+121***07")
        await page.goto("/attempts")
        await page.get_by_label("From").fill("2026-03-10")
        await page.get_by_label("unknown").check()
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("tbody tr")).to_have_count(6)
        await expect(page.get_by_label("unknown")).to_be_checked()
        await page.get_by_role("link", name="All").click()
        await expect(page.locator("tbody tr")).to_have_count(50)
        await page.get_by_role("link", name="Older").click()
        await expect(page.get_by_role("link", name="Newest")).to_be_visible()


async def test_a_running_pass_moves_by_itself_and_the_focus_stays(
    browser: Browser, site: Served, engine: AsyncEngine
) -> None:
    async with db.write(engine) as connection:
        await connection.execute(insert(runs).values(running_pass()))
    site.progress.due = 2_000
    async with watched(browser, site) as page:
        await settle(page)
        await expect(page.locator(".running")).to_contain_text("0 of 2,000 attempted, 0 %")
        summary = page.get_by_text("The same as a table")
        await summary.click()
        site.progress.outcomes[Outcome.SHARED] = 500
        await expect(page.locator(".running")).to_contain_text("500 of 2,000 attempted, 25 %")
        await expect(summary).to_be_focused()
        await expect(page.get_by_role("region", name="Attempts in 30 days as a table")).to_be_visible()
        await page.locator(".running a").click()
        site.progress.outcomes[Outcome.SHARED] = 1_000
        await expect(page.locator("main")).to_contain_text("1,000 of 2,000 attempted, 50 %")


async def test_whole_phone_numbers_are_for_those_who_know_the_password(browser: Browser, site: Served) -> None:
    async with watched(browser, site, http_credentials={"username": "", "password": PASSWORD}) as page:
        await settle(page)
        assert "+14155550101" not in await page.content()
        await page.get_by_role("link", name="Show phone numbers").click()
        await expect(page.get_by_role("region", name="Lines")).to_contain_text("+14155550101")
        await page.get_by_role("link", name="Chats", exact=True).click()
        await expect(page.locator("tbody")).to_contain_text("+1212555")
        await page.get_by_role("link", name="Mask phone numbers").click()
        await expect(page.locator("tbody")).not_to_contain_text("+1212555")
    context = await browser.new_context(http_credentials={"username": "", "password": "a wrong one"})
    page = await context.new_page()
    answer = await page.goto(f"{site.url}/?numbers=whole")
    assert answer is not None
    assert answer.status == 401
    await expect(page.locator("body")).to_have_text("Unauthorized")
    await context.close()


async def test_without_javascript_everything_is_there(browser: Browser, site: Served) -> None:
    async with watched(browser, site, java_script_enabled=False) as page:
        await page.goto("/")
        while await page.locator(".reasons li").count() == 0:
            await page.reload()
        await page.locator("svg.days a").nth(17).click()
        await expect(page).to_have_url(f"{site.url}/attempts?since=2026-02-26&until=2026-02-26")
        await page.get_by_role("link", name="Chats", exact=True).click()
        await page.get_by_label("Verdict").select_option("paused")
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("tbody tr")).to_have_count(4)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_stands_in_the_way_of_anybody(browser: Browser, site: Served, scheme: str) -> None:
    async with watched(browser, site, color_scheme=scheme, viewport={"width": 360, "height": 740}) as page:
        await settle(page)
        chat = await page.request.get("/attempts?outcome=rejected", headers={"Accept": "application/json"})
        rejected = (await chat.json())["attempts"][0]
        for path in (*VIEWS, f"/chats/{rejected['chat_id']}", f"/passes/{rejected['run_id']}"):
            await page.goto(path)
            found = await Axe().run(page)
            assert [each["id"] for each in found.response["violations"]] == [], path
            wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{path} is {wide} pixels wider than a phone"
