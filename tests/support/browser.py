"""A page of the playground in a real browser, and everything that it did."""

from __future__ import annotations

import base64
import io
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
FINISHED = "#picture.shown:not(.painting, .preview)"
# What is finished is kept, unless it is the kiosk's, and marked once it is shown.
_KEPT = "#history [aria-current]"
_SECONDS = 120


class Visit:
    """A visit to the playground: the page, its requests for pictures, and its complaints."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.asked: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        page.on("request", self._requested)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _requested(self, request: Request) -> None:
        if urlsplit(request.url).scheme not in {"data", "blob"}:
            self.hosts.add(urlsplit(request.url).netloc)
        if request.url.endswith("/generate_stream"):
            self.asked.append(request.post_data_json)

    @property
    def state(self) -> str:
        return self.page.inner_text("#state")

    @property
    def notice(self) -> str:
        return self.page.inner_text("#notice")

    def open(self, query: str = "") -> Visit:
        """Open the page and wait for its first picture."""
        self.page.goto(f"{self.url}/playground{query}")
        return self.finished()

    def until(self, holds: Callable[[], Any]) -> Any:
        """Wait until something holds; the limit only ends a hang."""
        deadline = time.monotonic() + _SECONDS
        while not (found := holds()):
            assert time.monotonic() < deadline, (self.state, self.notice, self.complaints)
            self.page.wait_for_timeout(20)
        return found

    def finished(self) -> Visit:
        """Wait until a picture is there and nothing is under way."""
        if self.page.locator(".kiosk").count() == 0:
            self.page.wait_for_selector(_KEPT, state="attached")
            self.until(lambda: " · seed " in self.state)
        self.page.wait_for_selector(FINISHED)
        return self

    def next_picture(self, action: Callable[[], object]) -> dict[str, Any]:
        """Do something that asks for a picture; the request's body, once it is painted."""
        before = len(self.asked)
        action()
        self.until(lambda: len(self.asked) > before)
        self.finished()
        return self.asked[-1]

    def stroke(self, stage: str = "#sand", steps: int = 8) -> None:
        """Paint from left to right through the middle."""
        box = self.page.locator(stage).bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.5
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for step in range(steps):
            self.page.mouse.move(x + box["width"] * 0.5 * step / steps, y)
            self.page.wait_for_timeout(16)
        self.page.mouse.up()

    def shown(self) -> str:
        """The picture's pixels, as the data URL of a PNG."""
        url: str = self.page.evaluate(
            """() => {
                const image = document.querySelector("#picture .over");
                const canvas = document.createElement("canvas");
                [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
                canvas.getContext("2d").drawImage(image, 0, 0);
                return canvas.toDataURL();
            }"""
        )
        return url

    def check(self, *expected: str) -> None:
        """Nothing went elsewhere, and nobody complained but of what was expected."""
        assert self.hosts == {urlsplit(self.url).netloc}
        rest = [text for text in self.complaints if not any(part in text for part in expected)]
        assert rest == [], rest


@contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """A context of its own for one visit; `options` are Playwright's."""
    settings = {"viewport": {"width": 1366, "height": 850}, **options}
    context: BrowserContext = browser.new_context(**settings)
    context.set_default_timeout(_SECONDS * 1000)
    try:
        yield Visit(context.new_page(), url)
    finally:
        context.close()


def pixels(encoded: str) -> NDArray[np.uint8]:
    """A picture of a request or an answer."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def png(picture: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def refusal(status: int, code: str, message: str, **headers: str) -> Callable[[Route], None]:
    """A route's answer in the contract's form."""
    body = {
        "success": False, "error": code, "error_message": message, "detail": [], "request_id": "r1",
    }  # fmt: skip
    return lambda route: route.fulfill(status=status, json=body, headers=headers)
