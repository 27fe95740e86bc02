"""Accessibility of the playground: names, contrast, focus, sizes, motion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser

from tests.support.browser import Visit, refusal, visiting

Start = Callable[..., Visit]

CONTROLS = {
    "button", "checkbox", "combobox", "progressbar", "radio", "slider", "spinbutton", "textbox",
    "application", "DisclosureTriangle", "dialog", "region", "navigation",
}  # fmt: skip
# Every visible text with its colour against what lies beneath it, WCAG's formula.
CONTRASTS = """() => {
    const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        const [red, green, blue, alpha] = context.getImageData(0, 0, 1, 1).data;
        return [red, green, blue, alpha / 255];
    };
    const over = ([r, g, b, a], under) => [r, g, b].map((part, i) => part * a + under[i] * (1 - a));
    const light = (colour) => colour
        .map((part) => part / 255)
        .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode.textContent.trim();
        const element = walker.currentNode.parentElement;
        const seen = { opacityProperty: true, visibilityProperty: true };
        if (!text || !element.checkVisibility(seen)) continue;
        if (element.closest(".stage, .hidden, option, :disabled, noscript, .toast")) continue;
        const layers = [];
        for (let at = element; at; at = at.parentElement) {
            layers.unshift(rgba(getComputedStyle(at).backgroundColor));
        }
        const ground = layers.reduce((under, layer) => over(layer, under), [255, 255, 255]);
        const ink = over(rgba(getComputedStyle(element).color), ground);
        const [low, high] = [light(ground), light(ink)].sort((a, b) => a - b);
        found.push([text.slice(0, 40), (high + 0.05) / (low + 0.05)]);
    }
    return found;
}"""


# What reaches beyond the right edge of its part of the page.
CUT_OFF = """() => {
    const parts = "button, input, textarea, select, .stage, label";
    return [...document.querySelectorAll(parts)]
        .filter((one) => one.checkVisibility() && !one.closest("#history"))
        .filter((one) => {
            const part = one.closest("main > section > *") ?? document.body;
            const inside = part.parentElement.getBoundingClientRect().right || innerWidth;
            return one.getBoundingClientRect().right > inside + 1;
        })
        .map((one) => one.id || one.textContent);
}"""


@pytest.fixture(scope="module")
def here(browser: Browser, service_url: str) -> Iterator[Visit]:
    """The page with all that it can show at once, for whoever does not change it."""
    with visiting(browser, service_url, reduced_motion="reduce") as visit:
        visit.open("?steps=1")
        open_everything(visit)
        yield visit


def open_everything(here: Visit) -> None:
    page = here.page
    page.click("#more summary")
    page.check("#own-loras")
    page.evaluate(
        "document.querySelectorAll('#photo, #photo [hidden]').forEach((one) => one.hidden = false)"
    )
    page.route("**/generate_stream", refusal(500, "internal", "see the log"))
    page.click("#paint")
    here.until(lambda: "see the log" in here.notice)


def test_every_control_has_a_name(here: Visit) -> None:
    here.page.click("#compare")
    devtools = here.page.context.new_cdp_session(here.page)
    nodes: list[dict[str, Any]] = devtools.send("Accessibility.getFullAXTree")["nodes"]
    here.page.click("#token")
    nodes += devtools.send("Accessibility.getFullAXTree")["nodes"]
    here.page.keyboard.press("Escape")
    here.page.click("#help")
    nodes += devtools.send("Accessibility.getFullAXTree")["nodes"]
    here.page.keyboard.press("Escape")
    here.page.click("#compare")
    named = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if node["ignored"] or role not in CONTROLS:
            continue
        name = node.get("name", {}).get("value", "").strip()
        assert name, node
        named[role, name] = node
    assert len(named) > 50
    assert {("textbox", "Prompt"), ("textbox", "Token"), ("dialog", "Keyboard shortcuts")} <= {
        *named
    }
    here.check("status of 500")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_stand_out(here: Visit, theme: Literal["light", "dark"]) -> None:
    here.page.emulate_media(color_scheme=theme)
    found = dict(here.page.evaluate(CONTRASTS))
    here.page.click("#help")
    found |= dict(here.page.evaluate(CONTRASTS))
    here.page.keyboard.press("Escape")
    assert len(found) > 60
    assert {text: ratio for text, ratio in found.items() if ratio < 4.5} == {}
    dark = (
        here.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 19, 16)"
    )
    assert dark == (theme == "dark")


def test_chosen_theme_survives_a_reload(visit: Start) -> None:
    here = visit(color_scheme="light")
    here.page.goto(f"{here.url}/playground")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = here.page.evaluate(colour)
    here.page.click("#theme")
    dark = here.page.evaluate(colour)
    assert dark != light
    here.page.reload()
    assert here.page.evaluate(colour) == dark


def test_focus_moves_from_sand_to_settings(here: Visit) -> None:
    here.page.focus("#help")
    order = []
    while True:
        here.page.keyboard.press("Tab")
        if here.page.evaluate("document.activeElement === document.body"):
            break
        focused = here.page.evaluate("document.activeElement.id || document.activeElement.name")
        shown = here.page.evaluate(
            """() => {
                const at = document.activeElement;
                const covered = at.matches("[type=radio], [type=checkbox], [type=file]");
                const styled = covered ? [at.parentElement, at.nextElementSibling] : [at];
                return styled.some((one) => one && getComputedStyle(one).outlineStyle !== "none");
            }"""
        )
        assert shown, focused
        order.append(focused)
    known = [
        "sand",
        "tool",
        "clear",
        "size",
        "picture",
        "paint",
        "follow",
        "era",
        "prompt",
        "model",
    ]
    places = [order.index(name) for name in known]
    assert places == sorted(places)


def test_nothing_is_cut_off(visit: Start) -> None:
    here = visit(viewport={"width": 320, "height": 640})
    here.page.route("**/generate_stream", refusal(500, "internal", "see the log"))
    here.page.goto(f"{here.url}/playground")
    here.until(lambda: "see the log" in here.notice)
    here.page.click("#more summary")
    for width, height in ((320, 640), (390, 844), (820, 1180), (1366, 850)):
        here.page.set_viewport_size({"width": width, "height": height})
        assert here.page.evaluate("document.scrollingElement.scrollWidth") <= width
        wide = here.page.evaluate(CUT_OFF)
        assert wide == [], width


def test_without_motion_nothing_moves(here: Visit) -> None:
    moving = here.page.evaluate(
        """() => [...document.querySelectorAll("*")].filter((one) => {
            const style = getComputedStyle(one);
            return style.animationName !== "none" || style.transitionDuration !== "0s";
        }).map((one) => one.className)"""
    )
    assert moving == []
