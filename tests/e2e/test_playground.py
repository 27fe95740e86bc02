"""The playground as people use it: painting, errors, history, files, keys, touch, kiosk."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.support.browser import Visit, pixels, refusal
from tests.support.calls import ServiceLog

Start = Callable[..., Visit]


def test_painting_requests_an_image_and_shows_previews(visit: Start) -> None:
    # In so many steps there is time for previews.
    here = visit().open("?model=base&steps=10&seed=5")
    first = here.asked[-1]
    assert first["model"] == "base"
    assert first["era"] in first["prompt"]
    before = here.shown()
    here.page.evaluate(
        """() => new MutationObserver(([{ target }]) => {
            window.previewed ||= target.matches(".preview.painting");
        }).observe(document.querySelector("#picture"), { attributeFilter: ["class"] })"""
    )
    painted = here.next_picture(here.stroke)
    assert here.page.evaluate("window.previewed")
    assert here.shown() != before
    old, new = pixels(first["depth_map_b64"]), pixels(painted["depth_map_b64"])
    assert old.shape == new.shape == (512, 512)
    middle = np.s_[250:262, 140:360]
    assert new[middle].mean() > old[middle].mean() + 5
    assert (old[:100] == new[:100]).all()
    assert painted == {**first, "depth_map_b64": painted["depth_map_b64"]}
    width = here.page.evaluate("document.querySelector('#picture .over').naturalWidth")
    assert width == 256
    here.check()


def test_further_painting_supersedes_the_running_request(
    visit: Start, service_url: str, service_log: Path
) -> None:
    """The page's clock goes on with the hand alone, by 2.4 s in all."""
    here = visit()
    here.page.clock.install()
    here.open("?model=base&steps=4&seed=5")
    log = ServiceLog(service_log)
    asked = len(here.asked)
    here.page.click("#more summary")
    for name, value in (("width", "512"), ("height", "512"), ("steps", "50")):
        here.page.fill(f"[name={name}]", value)
    log.wait_for("started")
    here.page.clock.pause_at(here.page.evaluate("Date.now() / 1000 + 1"))
    box = here.page.locator("#sand").bounding_box()
    assert box is not None
    here.page.mouse.move(box["x"] + 60, box["y"] + 60)
    here.page.mouse.down()
    for step in range(40):
        here.page.mouse.move(box["x"] + 60 + 8 * step, box["y"] + 60 + 5 * step)
        here.page.clock.run_for(60)
    here.page.mouse.up()
    here.page.clock.resume()
    here.until(lambda: len(here.asked) - asked >= 3)
    assert len(here.asked) - asked < 40
    assert len({body["session"] for body in here.asked}) == 1
    log.wait_for("ended")
    here.page.keyboard.press("Escape")
    here.until(lambda: here.state == "Stopped.")
    here.until(lambda: running(log) == set())
    # Those that were replaced have ended before the next began.
    assert max(len(running(log, count)) for count in range(len(log.history))) <= 1
    here.check()


def running(log: ServiceLog, count: int | None = None) -> set[str]:
    """The requests that run after so many of the log's events, or after all."""
    found: set[str] = set()
    for event, name in log.history[:count]:
        (found.add if event == "started" else found.discard)(name)
    return found


def test_error_names_the_field_and_clears_once_corrected(visit: Start) -> None:
    here = visit().open("?steps=1")
    here.page.fill("#prompt", "(rivers:9)")
    here.until(lambda: "between 0 and 2" in here.notice)
    assert here.page.get_by_role("alert").inner_text().count("prompt") == 1
    assert here.page.get_attribute("#prompt", "aria-invalid") == "true"
    here.next_picture(lambda: here.page.fill("#prompt", "(rivers:1.2)"))
    assert here.page.is_hidden("#notice")
    assert here.page.get_attribute("#prompt", "aria-invalid") is None
    asked = len(here.asked)
    here.page.fill("#prompt", " ")
    here.until(lambda: here.state == "Say what to paint.")
    assert len(here.asked) == asked
    here.check("status of 400")


def test_busy_or_lost_service_is_retried(visit: Start) -> None:
    here = visit()
    here.page.clock.install()
    here.open("?steps=1")
    full = refusal(429, "overloaded", "the queue is full", **{"Retry-After": "3600"})
    here.page.route("**/generate_stream", full)
    here.page.click("#paint")
    here.until(lambda: "Busy at the moment" in here.notice)
    asked = len(here.asked)
    here.stroke(steps=2)
    here.page.clock.fast_forward("30:00")
    here.until(lambda: re.search(r"or in 1[78]\d\d s", here.notice))
    assert len(here.asked) == asked, "a change does not ask before its time"
    here.page.unroute("**/generate_stream")
    here.page.route("**/generate_stream", lambda route: route.abort())
    here.page.clock.fast_forward("30:00")
    here.until(lambda: "Connection lost" in here.notice)
    here.page.unroute("**/generate_stream")
    here.until(lambda: here.page.is_hidden("#notice"))
    here.finished()
    here.check("status of 429", "ERR_FAILED")


def test_history_restores_sand_settings_and_image(visit: Start) -> None:
    here = visit().open("?era=ruins&seed=11&steps=1")
    first, picture = here.asked[-1], here.shown()
    here.next_picture(lambda: here.page.fill("#prompt", "somebody's own words"))
    second = here.next_picture(lambda: here.page.get_by_label("future").check(force=True))
    assert second["prompt"] == "somebody's own words", "an edited prompt stays"
    here.next_picture(here.stroke)
    items = here.page.locator("#history button")
    here.until(lambda: items.count() == 4)
    asked = len(here.asked)
    items.last.click()
    here.until(lambda: here.shown() == picture)
    assert len(here.asked) == asked, "what is restored is not painted again"
    again = here.next_picture(lambda: here.page.click("#paint"))
    assert again == first, "sand and settings are those of before"
    here.until(lambda: items.count() == 5)
    here.page.goto(f"{here.url}/playground")
    here.finished()
    assert here.shown() == picture
    assert here.page.input_value("#seed") == "11"
    assert items.count() == 5
    items.first.focus()
    here.page.keyboard.press("Delete")
    here.until(lambda: items.count() == 4)
    here.page.click("#forget")
    here.until(lambda: items.count() == 0)
    here.check()


def test_kiosk_shows_only_the_image_and_recovers(visit: Start) -> None:
    here = visit(viewport={"width": 960, "height": 540}, has_touch=True)
    here.page.add_init_script(
        "navigator.wakeLock.request = async (kind) => { window.awake = kind; }"
    )
    here.page.goto(f"{here.url}/playground?kiosk=1&era=ruins&steps=2")
    here.finished()
    box = here.page.locator("#picture").bounding_box()
    assert box == {"x": 0, "y": 0, "width": 960, "height": 540}
    for part in (".bar", "#sand", "#form", ".history", "#paint"):
        assert here.page.is_hidden(part)
    body = here.asked[-1]
    assert (body["era"], body["width"], body["height"]) == ("ruins", 456, 256)
    assert here.page.evaluate("window.awake") == "screen"
    touch(here, "#picture")
    here.until(lambda: here.asked[-1]["depth_map_b64"] != body["depth_map_b64"])
    here.finished()
    here.page.route("**/*", lambda route: route.abort())
    touch(here, "#picture")
    here.until(lambda: "Connection lost" in here.notice)
    asked = len(here.asked)
    here.page.unroute("**/*")
    here.until(lambda: len(here.asked) > asked)
    here.until(lambda: here.page.is_hidden("#notice"))
    here.finished()
    here.check("ERR_FAILED")


def touch(here: Visit, stage: str) -> None:
    """A finger that moves down over a stage."""
    box = here.page.locator(stage).bounding_box()
    assert box is not None
    devtools = here.page.context.new_cdp_session(here.page)
    for step in range(8):
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] * (0.7 - 0.06 * step)
        kind = "touchMove" if step else "touchStart"
        points = [{"x": x, "y": y}]
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        here.page.wait_for_timeout(16)
    devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_touch_paints_without_scrolling(visit: Start) -> None:
    here = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    here.open("?steps=1")
    before = here.asked[-1]["depth_map_b64"]
    for stage in ("#sand", "#picture"):
        body = here.next_picture(lambda stage=stage: touch(here, stage))
        assert body["depth_map_b64"] != before
        before = body["depth_map_b64"]
    assert here.page.evaluate("scrollY") == 0
    for stage in ("#sand", "#picture"):
        box = here.page.locator(stage).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 844, "both are in sight"
    here.check()


def test_keyboard_controls_every_function(visit: Start) -> None:
    here = visit().open("?steps=1")
    page, first = here.page, here.asked[-1]["depth_map_b64"]
    page.locator("#sand").focus()
    for key in ("ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    body = here.next_picture(lambda: page.keyboard.press("Space"))
    assert body["depth_map_b64"] != first
    body = here.next_picture(lambda: page.keyboard.press("Control+z"))
    assert body["depth_map_b64"] == first
    for key, tool in (("l", "lower"), ("s", "smooth"), ("f", "flatten"), ("r", "raise")):
        page.keyboard.press(key)
        assert page.is_checked(f"[value={tool}]")
    size = int(page.input_value("#size"))
    page.keyboard.press("]")
    assert int(page.input_value("#size")) == size + 2
    seed = here.asked[-1]["seed"]
    assert here.next_picture(lambda: page.keyboard.press("n"))["seed"] != seed
    page.keyboard.press("d")
    assert page.get_attribute("#raw", "aria-pressed") == "true"
    page.keyboard.press("c")
    assert page.is_visible("#split")
    page.keyboard.press("?")
    assert page.is_visible("#help-dialog")
    page.uncheck("#single")
    page.keyboard.press("Escape")
    page.keyboard.press("l")
    assert page.is_checked("[value=raise]"), "single keys are switched off"
    page.focus("#prompt")
    page.keyboard.type("lns?")
    assert page.is_hidden("#help-dialog")
    assert page.input_value("#prompt").endswith("lns?")
    here.next_picture(lambda: page.keyboard.press("Control+Enter"))
    here.check()
