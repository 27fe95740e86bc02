"""Screenshots of the playground for the documentation, with the demo set in headless Chromium.

python -m docs_build.images.playground_shots [--url URL]
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from testing.server import ROOT, running_service

_FOLDER = ROOT / "docs" / "img"
_FINISHED = "#picture.shown:not(.painting)"
_QUALITY = 82
_SECONDS = 60_000


def photograph(url: str, folder: Path) -> list[Path]:
    """Generate some images and save screenshots of the page, on a laptop and as a kiosk.

    Args:
        url: base URL of a service whose catalog has the demo's eras.
        folder: receives playground.jpg and playground-kiosk.jpg.

    Returns:
        Paths of the files.

    Raises:
        RuntimeError: Chromium is not installed.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if chromium is None:
        raise RuntimeError("Chromium is needed (apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        files = [_laptop(browser, url, folder), _kiosk(browser, url, folder)]
        browser.close()
    return files


def _laptop(browser: Browser, url: str, folder: Path) -> Path:
    page = _open(browser, f"{url}/playground?era=pre_industrial&model=base&seed=8", 1366, 850)
    for era in ("ruins", "industrial", "current", "future", "dystopia", "modern", "wilderness"):
        page.locator(f"#era input[value={era}]").check(force=True)
        page.wait_for_selector("#picture.painting")
        page.wait_for_selector(_FINISHED, timeout=_SECONDS)
        page.wait_for_timeout(300)
    _stroke(page, "#sand")
    return _save(page, folder / "playground.jpg")


def _kiosk(browser: Browser, url: str, folder: Path) -> Path:
    page = _open(browser, f"{url}/playground?kiosk=1&era=wilderness&model=base&seed=8", 1280, 720)
    return _save(page, folder / "playground-kiosk.jpg")


def _open(browser: Browser, url: str, width: int, height: int) -> Page:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    page.goto(url)
    page.wait_for_selector(_FINISHED, timeout=_SECONDS)
    return page


def _stroke(page: Page, stage: str) -> None:
    box = page.locator(stage).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] * 0.42, box["y"] + box["height"] * 0.72
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(30):
        page.mouse.move(x + 5 * step, y - 5.5 * step)
        page.wait_for_timeout(25)
    page.mouse.up()


def _save(page: Page, file: Path) -> Path:
    page.wait_for_selector(_FINISHED, timeout=_SECONDS)
    page.wait_for_timeout(1000)
    page.screenshot(path=file, type="jpeg", quality=_QUALITY)
    page.context.close()
    return file


def main() -> int:
    """Write the screenshots and print their sizes; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running service; without it a fresh one is started")
    arguments = parser.parse_args()
    with running_service(arguments.url) as url:
        for file in photograph(url, _FOLDER):
            print(f"{file.relative_to(ROOT)}: {file.stat().st_size // 1024} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
