"""Inputs and outputs of the playground: images, photographs, copied commands, tokens."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Route

from tests.support.browser import Visit, pixels, png, refusal

Start = Callable[..., Visit]


def test_shown_image_is_reproduced_by_the_copied_commands(visit: Start, tmp_path: Path) -> None:
    here = visit(permissions=["clipboard-read", "clipboard-write"], accept_downloads=True)
    here.open("?era=future&seed=3&steps=3&output_format=png")
    with here.page.expect_download() as download:
        here.page.click("#download")
    assert download.value.suggested_filename == "experimance-future-3.png"
    saved = Path(download.value.path()).read_bytes()
    copies = (("#curl", "curl", "bash"), ("#python", "Python", sys.executable))
    for button, told, command in copies:
        here.page.click(button)
        here.until(lambda told=told: here.page.text_content("#toast") == f"Copied as {told}.")
        text = here.page.evaluate("navigator.clipboard.readText()")
        folder = tmp_path / told
        folder.mkdir()
        done = subprocess.run(
            [command, "-"], input=text, text=True, cwd=folder, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert (folder / "picture.png").read_bytes() == saved
    here.check()


def test_a_depth_image_becomes_the_sand(visit: Start) -> None:
    here = visit().open("?steps=1")
    ramp = np.broadcast_to(np.linspace(20, 230, 300).astype(np.uint8)[:, None], (300, 300)).copy()
    body = here.next_picture(
        lambda: here.page.set_input_files(
            "#depth-file", {"name": "a.png", "mimeType": "image/png", "buffer": png(ramp)}
        )
    )
    rows = pixels(body["depth_map_b64"]).mean(axis=1)
    assert np.abs(rows - np.linspace(20, 230, 512)).max() < 3
    dropped = here.page.evaluate_handle(
        """(text) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "b.png", { type: "image/png" }));
            return data;
        }""",
        base64.b64encode(png(ramp[::-1].copy())).decode(),
    )
    body = here.next_picture(
        lambda: here.page.dispatch_event("#sand", "drop", {"dataTransfer": dropped})
    )
    rows = pixels(body["depth_map_b64"]).mean(axis=1)
    assert np.abs(rows - np.linspace(230, 20, 512)).max() < 3
    text = {"name": "c.png", "mimeType": "image/png", "buffer": b"no picture"}
    here.page.set_input_files("#depth-file", text)
    here.until(lambda: "no picture that the browser can open" in here.notice)
    here.check()


def test_photograph_becomes_depth_map_or_init_image(visit: Start) -> None:
    here = visit()
    sent: list[dict[str, Any]] = []
    depth = np.full((256, 256), 40, np.uint8)
    depth[64:192, 64:192] = 200

    def models(route: Route) -> None:
        answer = route.fetch()
        told = {"available_depth_estimators": ["tiny"], "default_depth_estimator": "tiny"}
        route.fulfill(response=answer, json={**answer.json(), **told})

    def estimate(route: Route) -> None:
        sent.append(route.request.post_data_json)
        route.fulfill(
            json={
                "success": True, "depth_map_b64": base64.b64encode(png(depth)).decode(),
                "depth_estimator": "tiny", "width": 256, "height": 256, "seconds": 0.2,
                "request_id": "e1", "warnings": ["depth map: clipped"],
            }
        )  # fmt: skip

    here.page.route("**/models", models)
    here.page.route("**/estimate_depth", estimate)
    here.open("?steps=1")
    photograph = np.zeros((200, 320, 3), np.uint8)
    photograph[..., 2] = np.linspace(0, 255, 320, dtype=np.uint8)
    file = {"name": "p.png", "mimeType": "image/png", "buffer": png(photograph)}
    body = here.next_picture(lambda: here.page.set_input_files("#photo-file", file))
    assert sent[0].keys() == {"image_b64", "depth_estimator"}
    assert pixels(sent[0]["image_b64"]).shape == (320, 320, 3)
    sand = pixels(body["depth_map_b64"])
    assert abs(int(sand[256, 256]) - 200) < 3
    assert abs(int(sand[20, 20]) - 40) < 3
    assert "image_b64" not in body
    body = here.next_picture(lambda: here.page.check("#photo-start"))
    assert body["strength"] == 0.6
    assert pixels(body["image_b64"]).shape == (320, 320, 3)
    body = here.next_picture(lambda: here.page.click("#photo-remove"))
    assert "image_b64" not in body
    here.check()


def test_page_prompts_for_a_token_and_stores_it(visit: Start) -> None:
    here = visit()

    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer secret":
            route.continue_()
        else:
            refusal(401, "unauthorized", "a bearer token is needed")(route)

    for path in ("models", "generate_stream"):
        here.page.route(f"**/{path}", guarded)
    here.page.goto(f"{here.url}/playground?steps=1")
    here.page.wait_for_selector("#token-dialog[open]")
    assert "asks for a token" in here.page.inner_text("#token-hint")
    here.page.fill("#token-text", "wrong")
    here.page.keyboard.press("Enter")
    here.until(lambda: "does not accept" in here.page.inner_text("#token-hint"))
    here.page.fill("#token-text", "secret")
    here.page.keyboard.press("Enter")
    here.finished()
    assert here.page.evaluate("localStorage.length") == 0
    here.page.reload()
    here.finished()
    assert here.page.is_hidden("#token-dialog")
    here.check("status of 401")


def test_token_in_url_fragment_is_used_and_removed(visit: Start) -> None:
    here = visit()
    tokens: list[str | None] = []
    here.page.on("request", lambda request: tokens.append(request.headers.get("authorization")))
    here.page.goto(f"{here.url}/playground?steps=1#token=handed")
    here.until(lambda: "Bearer handed" in tokens)
    assert here.page.url.endswith("/playground/?steps=1")
    here.check()


def test_example_landscapes_use_the_full_height_range(visit: Start) -> None:
    here = visit()
    here.page.route("**/generate_stream", lambda route: route.abort())
    here.page.goto(f"{here.url}/playground")
    here.until(lambda: "Connection lost" in here.notice)
    here.page.click("#raw")
    names = here.page.locator("#landscapes button")
    assert names.count() >= 4
    seen = set()
    for index in range(names.count()):
        names.nth(index).click()
        heights = np.array(
            here.page.evaluate(
                """() => {
                    const canvas = document.querySelector("#sand canvas");
                    const area = canvas.getContext("2d").getImageData(0, 0, 512, 512).data;
                    return Array.from({ length: 4096 }, (_, index) => area[index * 256]);
                }"""
            )
        )
        assert heights.max() - heights.min() > 90, index
        assert (heights == 0).mean() < 0.1, index
        assert (heights == 255).mean() < 0.1, index
        seen.add(heights.tobytes())
    assert len(seen) == names.count()
    here.check("ERR_FAILED", "willReadFrequently")
