"""Scenario files: drawn values and error messages."""

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

from api.schemas.requests import GenerateRequest
from experimance.load.cli import UsageError
from experimance.load.request_factory import PlannedRequest, RequestFactory
from experimance.load.scenario import list_bundled, parse_traffic, read_traffic
from experimance.load.schedule import build_plan
from models.catalog import load_catalog
from tests.support.load_runs import traffic

HEAD = '[[scenario]]\nname = "a"\n'


def body(request: PlannedRequest) -> dict[str, Any]:
    return dict(json.loads(request.body))


def planned(text: str, count: int = 200, seed: int = 0) -> list[PlannedRequest]:
    factory = RequestFactory(traffic(text, seed))
    return [factory.create(number) for number in range(count)]


@pytest.mark.parametrize("name", list_bundled())
def test_bundled_scenarios_send_valid_requests(name: str) -> None:
    mix = read_traffic(name)
    assert mix.description
    build_plan(mix, {}, timeout=1, max_in_flight=1, respect_retry_after=False)
    factory = RequestFactory(mix)
    for catalog in map(load_catalog, ("demo", "experimance")):
        for number in range(60):
            request = GenerateRequest.model_validate(body(factory.create(number)))
            assert request.era is None or request.era in catalog.eras
            assert request.model is None or request.model in catalog.models


def test_help_lists_the_bundled_scenarios() -> None:
    assert list_bundled() == ("burst", "installation", "visitors")


def test_requests_depend_on_seed_and_number_only() -> None:
    mix = read_traffic("visitors")
    forwards, backwards = RequestFactory(mix), RequestFactory(mix)
    there = [forwards.create(number) for number in range(40)]
    back = [backwards.create(number) for number in reversed(range(40))]
    assert there == back[::-1]
    other = RequestFactory(read_traffic("visitors", seed=99))
    assert there != [other.create(number) for number in range(40)]


def test_weights_are_shares() -> None:
    text = "".join(
        f'[[scenario]]\nname = "{n}"\nweight = {w}\ndepth = "mock"\n'
        for n, w in zip("abc", (1, 3, 0), strict=True)
    )
    counts = Counter(request.scenario for request in planned(text, 1000))
    assert counts[0] + counts[1] == 1000
    assert counts[1] / 1000 == pytest.approx(0.75, abs=0.05)


def test_values_are_fixed_chosen_ranged_or_cycled() -> None:
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
    bodies = [body(request) for request in planned(text)]
    assert {b["steps"] for b in bodies} == {2, 3, 4}
    assert all(1 <= b["cfg"] <= 2 for b in bodies)
    assert len({b["cfg"] for b in bodies}) > 100
    assert Counter(b["era"] for b in bodies)["ruins"] / 200 == pytest.approx(0.75, abs=0.1)
    assert [b["model"] for b in bodies[:8]] == ["lightning"] * 3 + ["hyper"] * 3 + ["lightning"] * 2
    assert all(b["loras"] == [{"name": "drone", "strength": 0.5}] for b in bodies)
    assert all(b["mock_depth"] is True for b in bodies)


def test_scenario_fields_override_common_fields() -> None:
    text = '[fields]\nprompt = "all"\nsteps = 2\n' + HEAD + 'depth = "mock"\nfields = { steps = 9 }'
    assert body(planned(text, 1)[0]) == {"prompt": "all", "steps": 9, "mock_depth": True}


def test_depth_maps_from_files_folders_and_terrain(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    contents = []
    for shade in (10, 200):
        Image.new("L", (8, 8), shade).save(maps / f"{shade}.png")
        contents.append((maps / f"{shade}.png").read_bytes())
    (maps / "notes.txt").write_text("no picture")
    for spec in ('{ files = ["maps/10.png", "maps/200.png"] }', '{ folder = "maps" }'):
        mix = parse_traffic(HEAD + f"depth = {spec}", "t", tmp_path)
        factory = RequestFactory(mix)
        sent = {base64.b64decode(body(factory.create(n))["depth_map_b64"]) for n in range(20)}
        assert sent == set(contents)
    found = {
        d["depth_map_b64"]
        for d in map(body, planned(HEAD + "depth = { terrain = 3, size = [64, 48] }"))
    }
    assert len(found) == 3
    for text in found:
        image = Image.open(io.BytesIO(base64.b64decode(text)))
        assert (image.mode, image.size) == ("L", (64, 48))
        pixels = np.asarray(image).astype(int)
        assert (pixels.min(), pixels.max()) == (0, 255)
        assert np.abs(np.diff(pixels, axis=1)).mean() < 16


def test_equal_requests_share_their_bytes() -> None:
    first, second = planned(HEAD + "depth = { terrain = 1, size = 64 }", 2)
    assert first.body is second.body


def test_shares_of_requests_are_cancelled_or_left() -> None:
    text = HEAD + 'depth = "mock"\ncancel = { after = { range = [0.5, 1.0] }, share = 0.4 }'
    made = planned(text + "\nleave = { after = 2 }")
    cancelled = [d.cancel_after for d in made if d.cancel_after is not None]
    assert len(cancelled) / len(made) == pytest.approx(0.4, abs=0.1)
    assert all(0.5 <= after <= 1 for after in cancelled)
    assert {d.leave_after for d in made} == {2.0}


@pytest.mark.parametrize(
    ("text", "names", "accepted"),
    [
        ("", "test.toml: scenario", "[[scenario]]"),
        ("x = [", "test.toml", "is not TOML"),
        ("[[scenari]]", "does not know scenari", "description, seed, load, fields, scenario"),
        ("[load]\nspeed = 2\n" + HEAD, "load: does not know speed", "rate, clients"),
        ('[[scenario]]\ndepth = "mock"', "scenario 1: name", "a text without : < > ="),
        ('[[scenario]]\nname = "a:b"\ndepth = "mock"', "name", "without : < > ="),
        (HEAD, "scenario a: depth: is needed", "terrain = 8"),
        (HEAD + 'deph = "mock"', "does not know deph", "depth, image, cancel"),
        (HEAD + 'depth = "flat"', "depth: 'flat'", '"mock", { files = '),
        (HEAD + "depth = { terrain = 0 }", "terrain: 0", "from 1 to 256"),
        (HEAD + "depth = { terrain = 2, size = [1, 2, 3] }", "size", "[width, height]"),
        (HEAD + 'depth = { files = ["gone.png"] }', "gone.png cannot be read", "No such file"),
        (HEAD + 'depth = { folder = "gone" }', "folder", "is not a folder"),
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
def test_errors_name_the_key_and_accepted_values(text: str, names: str, accepted: str) -> None:
    with pytest.raises(UsageError) as caught:
        traffic(text)
    assert names in str(caught.value)
    assert accepted in str(caught.value)


def test_missing_files_list_the_bundled_scenarios() -> None:
    with pytest.raises(
        UsageError, match=r"--scenario: gone cannot be read.*burst, installation, visit"
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
    with pytest.raises(UsageError) as caught:
        build_plan(mix, load, timeout=1, max_in_flight=1, respect_retry_after=False)
    assert said in str(caught.value)


def test_options_override_the_file() -> None:
    mix = traffic(
        '[load]\nrate = 2\narrivals = "constant"\nduration = "7s"\n' + HEAD + 'depth = "mock"'
    )
    made = [
        build_plan(mix, load, timeout=1, max_in_flight=1, respect_retry_after=False)
        for load in ({}, {"rate": "3"}, {"clients": "4"})
    ]
    assert [(p.open_loop, p.profile.peak, p.profile.seconds) for p in made] == [
        (True, 2, 7), (True, 3, 7), (False, 4, 7),
    ]  # fmt: skip
    assert made[1].process == "constant"
