"""The browser of the tests: the system's Chromium, which the set-up installs where it may."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from playwright.async_api import Browser, Playwright

PROGRAM: Final = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)

QUIET: Final = (
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@asynccontextmanager
async def chromium(playwright: Playwright) -> AsyncIterator[Browser]:
    """Chromium without a window, for the time of the block."""
    browser = await playwright.chromium.launch(executable_path=PROGRAM, args=list(QUIET))
    try:
        yield browser
    finally:
        await browser.close()
