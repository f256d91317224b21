"""Takes the pictures of the documents: the page of a worker's month, in Chromium, light and dark.

python -m tests.pictures
"""

import asyncio
import tempfile
from pathlib import Path
from typing import Final, Literal

import httpx
from playwright.async_api import Browser, Playwright, async_playwright

from tests.browsers import chromium
from tests.page_world import PASSWORD, Served, fill, served
from worker import db

IMAGES: Final = Path(__file__).parent.parent / "docs" / "images"
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")


async def main() -> None:
    """Write all pictures."""
    with tempfile.TemporaryDirectory() as folder:
        async with db.opened(db.parse_url(f"sqlite:///{folder}/month.db"), create=True) as engine:
            await db.migrate(engine)
            await fill(engine)
            async with served(engine, password=PASSWORD) as site, async_playwright() as playwright:
                await _take_all(site, playwright)


async def _take_all(site: Served, playwright: Playwright) -> None:
    async with httpx.AsyncClient(base_url=site.url, headers={"Accept": "application/json"}) as client:
        rejected = (await client.get("/attempts?outcome=rejected")).json()["attempts"][0]
    async with chromium(playwright) as browser:
        for scheme in SCHEMES:
            await _take(browser, site, f"overview-{scheme}.png", "/", scheme, height=930)
            await _take(browser, site, f"chat-{scheme}.png", f"/chats/{rejected['chat_id']}", scheme, height=860)


async def _take(
    browser: Browser, site: Served, name: str, path: str, scheme: Literal["light", "dark"], *, height: int
) -> None:
    page = await browser.new_page(
        base_url=site.url, color_scheme=scheme, viewport={"width": 1280, "height": height}, device_scale_factor=2
    )
    await page.goto(path)
    if path == "/":
        await page.locator(".reasons li").first.wait_for()
    await page.screenshot(path=IMAGES / name)
    await page.close()


if __name__ == "__main__":
    asyncio.run(main())
