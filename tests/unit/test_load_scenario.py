"""Scenario files: what they draw, and what they are told when they ask for what is not there."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from api.requests import GenerateRequest
from experimance.load.draft import Draft, Drafter
from experimance.load.misuse import Misuse
from experimance.load.plan import plan_of
from experimance.load.scenario import parse_traffic, read_traffic, shipped
from models.catalog import load_catalog
from tests.unit.load_runs import traffic

HEAD = '[[scenario]]\nname = "a"\n'


def body(draft: Draft) -> dict[str, Any]:
    return dict(json.loads(draft.body))


def drafts(text: str, count: int = 200, seed: int = 0) -> list[Draft]:
    drafter = Drafter(traffic(text, seed))
    return [drafter.draft(number) for number in range(count)]


@pytest.mark.parametrize("name", shipped())
def test_what_is_shipped_asks_for_what_the_service_accepts(name: str) -> None:
    mix = read_traffic(name)
    assert mix.description
    plan_of(mix, {}, timeout=1, max_in_flight=1, respect_retry_after=False)
    drafter = Drafter(mix)
    for catalog in map(load_catalog, ("demo", "experimance")):
        for number in range(60):
            request = GenerateRequest.model_validate(body(drafter.draft(number)))
            assert request.era is None or request.era in catalog.eras
            assert request.model is None or request.model in catalog.models


def test_the_three_scenarios_of_the_command_s_help_are_shipped() -> None:
    assert shipped() == ("burst", "installation", "visitors")


def test_a_request_depends_on_seed_and_number_alone() -> None:
    mix = read_traffic("visitors")
    forwards, backwards = Drafter(mix), Drafter(mix)
    there = [forwards.draft(number) for number in range(40)]
    back = [backwards.draft(number) for number in reversed(range(40))]
    assert there == back[::-1]
    other = Drafter(read_traffic("visitors", seed=99))
    assert there != [other.draft(number) for number in range(40)]


def test_weights_are_shares() -> None:
    text = "".join(
        f'[[scenario]]\nname = "{n}"\nweight = {w}\ndepth = "mock"\n'
        for n, w in zip("abc", (1, 3, 0), strict=True)
    )
    counts = Counter(draft.scenario for draft in drafts(text, 1000))
    assert counts[0] + counts[1] == 1000
    assert counts[1] / 1000 == pytest.approx(0.75, abs=0.05)


def test_values_are_fixed_chosen_ranged_or_in_sequence() -> None:
    text = (
        HEAD
        + """
    depth = "mock"
    [scenario.fields]
    prompt = "hills"
    era = { choice = ["modern", "ruins"], weights = [1, 3] }
    steps = { range = [2, 4] }
    cfg = { range = [1.0, 2.0] }
    model = { sequence = ["lightning", "hyper"], every = 3 }
    loras = [{ name = "drone", strength = 0.5 }]
    """
    )
    bodies = [body(draft) for draft in drafts(text)]
    assert {b["steps"] for b in bodies} == {2, 3, 4}
    assert all(1 <= b["cfg"] <= 2 for b in bodies)
    assert len({b["cfg"] for b in bodies}) > 100
    assert Counter(b["era"] for b in bodies)["ruins"] / 200 == pytest.approx(0.75, abs=0.1)
    assert [b["model"] for b in bodies[:8]] == ["lightning"] * 3 + ["hyper"] * 3 + ["lightning"] * 2
    assert all(b["loras"] == [{"name": "drone", "strength": 0.5}] for b in bodies)
    assert all(b["mock_depth"] is True for b in bodies)


def test_fields_of_a_scenario_go_before_those_of_all() -> None:
    text = '[fields]\nprompt = "all"\nsteps = 2\n' + HEAD + 'depth = "mock"\nfields = { steps = 9 }'
    assert body(drafts(text, 1)[0]) == {"prompt": "all", "steps": 9, "mock_depth": True}


def test_depth_from_files_folders_and_out_of_nothing(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    contents = []
    for shade in (10, 200):
        Image.new("L", (8, 8), shade).save(maps / f"{shade}.png")
        contents.append((maps / f"{shade}.png").read_bytes())
    (maps / "notes.txt").write_text("no picture")
    for spec in ('{ files = ["maps/10.png", "maps/200.png"] }', '{ folder = "maps" }'):
        mix = parse_traffic(HEAD + f"depth = {spec}", "t", tmp_path)
        drafter = Drafter(mix)
        sent = {base64.b64decode(body(drafter.draft(n))["depth_map_b64"]) for n in range(20)}
        assert sent == set(contents)
    found = {
        d["depth_map_b64"]
        for d in map(body, drafts(HEAD + "depth = { terrain = 3, size = [64, 48] }"))
    }
    assert len(found) == 3
    for text in found:
        image = Image.open(io.BytesIO(base64.b64decode(text)))
        assert (image.mode, image.size) == ("L", (64, 48))
        pixels = np.asarray(image).astype(int)
        assert (pixels.min(), pixels.max()) == (0, 255)
        assert np.abs(np.diff(pixels, axis=1)).mean() < 16


def test_equal_requests_share_their_bytes() -> None:
    first, second = drafts(HEAD + "depth = { terrain = 1, size = 64 }", 2)
    assert first.body is second.body


def test_some_are_cancelled_or_left_after_a_while() -> None:
    text = HEAD + 'depth = "mock"\ncancel = { after = { range = [0.5, 1.0] }, share = 0.4 }'
    made = drafts(text + "\nleave = { after = 2 }")
    cancelled = [d.cancel_after for d in made if d.cancel_after is not None]
    assert len(cancelled) / len(made) == pytest.approx(0.4, abs=0.1)
    assert all(0.5 <= after <= 1 for after in cancelled)
    assert {d.leave_after for d in made} == {2.0}


@pytest.mark.parametrize(
    ("text", "names", "accepted"),
    [
        ("", "test.toml: scenario", "[[scenario]]"),
        ("x = [", "test.toml", "is no TOML"),
        ("[[scenari]]", "does not know scenari", "description, seed, load, fields, scenario"),
        ("[load]\nspeed = 2\n" + HEAD, "load: does not know speed", "rate, clients"),
        ('[[scenario]]\ndepth = "mock"', "scenario 1: name", "a text without : < > ="),
        ('[[scenario]]\nname = "a:b"\ndepth = "mock"', "name", "without : < > ="),
        (HEAD, "scenario a: depth: is needed", "terrain = 8"),
        (HEAD + 'deph = "mock"', "does not know deph", "depth, image, cancel"),
        (HEAD + 'depth = "flat"', 'depth ("mock" too)', "folder = "),
        (HEAD + "depth = { terrain = 0 }", "terrain: 0", "from 1 to 256"),
        (HEAD + "depth = { terrain = 2, size = [1, 2, 3] }", "size", "[width, height]"),
        (HEAD + 'depth = { files = ["gone.png"] }', "gone.png cannot be read", "No such file"),
        (HEAD + 'depth = { folder = "gone" }', "folder", "is no folder"),
        (HEAD + 'depth = "mock"\nweight = -1', "scenario a: weight: -1", "0 to 1e+06"),
        (HEAD + 'depth = "mock"\nstream = 1', "stream: 1", "true or false"),
        (HEAD + 'depth = "mock"\nanswer = "gif"', "answer: 'gif'", "json, jpeg, png"),
        (HEAD + 'depth = "mock"\ncancel = { share = 1 }', "cancel.after", "is needed"),
        (HEAD + 'depth = "mock"\nleave = { after = 1, share = 2 }', "leave.share", "from 0 to 1"),
        (HEAD + 'depth = "mock"\nfields = { steps = { from = 1 } }', "fields.steps", "{ range ="),
        (
            HEAD + 'depth = "mock"\nfields = { steps = { range = [3, 1] } }',
            "steps.range", "[low, high]",
        ),
        (
            HEAD + 'depth = "mock"\nfields = { era = { choice = [] } }',
            "era.choice", "a list of values",
        ),
        (
            HEAD + 'depth = "mock"\nfields = { era = { choice = ["a"], weights = [1, 2] } }',
            "era.weights", "1 numbers",
        ),
        (
            HEAD + 'depth = "mock"\nfields = { era = { sequence = ["a"], every = 0 } }',
            "era.every", "whole number from 1",
        ),
        ((HEAD + 'depth = "mock"\n') * 2, "scenario: names must differ", "a, a"),
        ("seed = -1\n" + HEAD, "seed: -1", "whole number from 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_key_and_what_is_accepted(
    text: str, names: str, accepted: str
) -> None:
    with pytest.raises(Misuse) as caught:
        traffic(text)
    assert names in str(caught.value)
    assert accepted in str(caught.value)


def test_a_file_that_is_not_there_is_told_with_the_names_that_are() -> None:
    with pytest.raises(
        Misuse, match=r"--scenario: gone cannot be read.*burst, installation, visit"
    ):
        read_traffic("gone")


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ({"rate": "1", "clients": "2"}, "--rate: an open loop has no clients"),
        ({"rate": "1", "think": "2"}, "--think: an open loop has no think time"),
        ({"clients": "1", "arrivals": "poisson"}, "--arrivals: a closed loop has no arrivals"),
        (
            {"rate": "1", "arrivals": "even"},
            "--arrivals: 'even' is not accepted; use poisson, cons",
        ),
        ({"clients": "0.5"}, "--clients: '0.5' is less than one client"),
        ({"clients": "2000"}, "up to 1000"),
        ({"rate": "1000", "duration": "1h"}, "more than 1000000 requests"),
        ({"requests": 0}, "--requests: 0 is not accepted; use a number from 1"),
        ({"duration": "0"}, "--duration: must be above 0"),
        ({"think": "3..1"}, "--think: '3..1' is not accepted"),
    ],
)
def test_options_that_exclude_each_other(load: dict[str, Any], said: str) -> None:
    mix = traffic(HEAD + 'depth = "mock"')
    with pytest.raises(Misuse) as caught:
        plan_of(mix, load, timeout=1, max_in_flight=1, respect_retry_after=False)
    assert said in str(caught.value)


def test_options_go_before_the_file() -> None:
    mix = traffic(
        '[load]\nrate = 2\narrivals = "constant"\nduration = "7s"\n' + HEAD + 'depth = "mock"'
    )
    made = [
        plan_of(mix, load, timeout=1, max_in_flight=1, respect_retry_after=False)
        for load in ({}, {"rate": "3"}, {"clients": "4"})
    ]
    assert [(p.open_loop, p.shape.peak, p.shape.seconds) for p in made] == [
        (True, 2, 7), (True, 3, 7), (False, 4, 7),
    ]  # fmt: skip
    assert made[1].process == "constant"
