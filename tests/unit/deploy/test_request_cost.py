"""Request costs that the serverless worker reports to the platform."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchmarks.workload import BAR, CASES, Case
from deploy.shell import ROOT
from deploy.vast.price_table import GPUS, known_gpu
from deploy.vast.price_table import main as cost_table
from deploy.vast.request_cost import Workload

pytestmark = pytest.mark.slow

REQUEST: dict[str, Any] = {"prompt": "hills", "mock_depth": True}
# The rest take minutes: python -m benchmarks.workload.
_QUICK = [case for case in CASES if case.catalog == "demo" or case.body.get("steps", 9) <= 2]


@pytest.fixture(scope="module")
def production() -> Workload:
    return Workload.of_catalog("experimance")


@pytest.mark.parametrize("case", _QUICK, ids=range(len(_QUICK)))
def test_estimated_cost_matches_engine_operations(case: Case) -> None:
    _, error = case.error()
    assert abs(error) <= BAR


def test_defaults_are_the_variants(production: Workload) -> None:
    lightning = production.tflop(REQUEST)
    assert lightning == production.tflop({**REQUEST, "model": "lightning"})
    assert lightning == production.tflop({**REQUEST, "steps": 6, "cfg": 1.5, "width": 1024})
    # 20 steps in place of 6, both guided.
    assert 2.5 < production.tflop({**REQUEST, "model": "base"}) / lightning < 20 / 6


@pytest.mark.parametrize(
    ("more", "least"),
    [
        ({"steps": 12}, 1.7),
        ({"num_images": 4}, 3.9),
        ({"width": 2048}, 2.0),
        ({"negative_prompt": "blurry"}, 1.0),
        ({"prompt": "hills " * 300}, 1.001),
    ],
)
def test_more_work_weighs_more(production: Workload, more: dict[str, Any], least: float) -> None:
    ratio = production.tflop({**REQUEST, **more}) / production.tflop(REQUEST)
    assert ratio > least


@pytest.mark.parametrize(
    "less",
    [
        {"cfg": 1.0},
        {"decoder": "tiny"},
        {"control_guidance_end": 0.8},
        {"control_guidance_start": 0.5},
        {"guidance_end": 0.5},
        {"guidance_start": 0.5},
        {"controlnet_strength": 0},
        {"enable_deepcache": True},
        {"speed": "balanced"},
        {"speed": "fast"},
    ],
)
def test_less_work_weighs_less(production: Workload, less: dict[str, Any]) -> None:
    assert production.tflop({**REQUEST, **less}) < production.tflop(REQUEST)


@pytest.mark.parametrize(
    "junk",
    [
        {"steps": "many"},
        {"steps": None},
        {"steps": True},
        {"width": float("nan")},
        {"cfg": []},
        {"model": 7},
        {"model": "unknown"},
        {"controlnet": {}},
        {"prompt": None},
        {"num_images": {"a": 1}},
    ],
)
def test_junk_counts_as_the_default(production: Workload, junk: dict[str, Any]) -> None:
    expected = production.tflop(REQUEST)
    assert production.tflop({**REQUEST, **junk}) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"speed": "balanced"}, {"guidance_end": 0.35}),
        ({"speed": "fast"}, {"guidance_end": 0.35, "enable_deepcache": True}),
        ({"speed": "fast", "enable_deepcache": False}, {"guidance_end": 0.35}),
        ({"speed": "fast", "guidance_end": 1.0}, {"enable_deepcache": True}),
        ({"speed": "fast", "guidance_start": 0.5},
         {"guidance_start": 0.5, "guidance_end": 0.5, "enable_deepcache": True}),
        ({"speed": "exact"}, {}),
        ({"speed": 7}, {}),
    ],
)  # fmt: skip
def test_speed_costs_what_its_settings_cost(
    production: Workload, fields: dict[str, Any], same: dict[str, Any]
) -> None:
    assert production.tflop({**REQUEST, **fields}) == production.tflop({**REQUEST, **same})


def test_cost_is_capped_at_service_limits(production: Workload) -> None:
    most = {"steps": 50, "num_images": 4, "width": 2048, "height": 2048, "cfg": 20}
    beyond = dict.fromkeys(most, 10**12)
    bounded = production.tflop({**REQUEST, **most})
    assert production.tflop({**REQUEST, **beyond}) == bounded
    assert production.tflop({**REQUEST, "steps": -5}) > 0


def test_an_operators_catalog(tmp_path: Any) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        'name = "own"\ndefault_model = "fast"\ndefault_controlnet = "depth"\n'
        "[models.fast]\nnative_size = 768\nsteps = 4\ncfg = 1.0\n"
    )
    own = Workload.of_catalog(str(file))
    assert own.native_size == 768
    # A ControlNet that does not call itself small has attention.
    small = own.tflop({**REQUEST, "controlnet": "small"})
    assert own.tflop(REQUEST) > small


def test_documented_cost_table_matches_command_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cost_table([]) == 0
    text = (ROOT / "docs" / "serverless.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- cost_table: begin -->\n(.*)<!-- cost_table: end -->", text, re.S)
    assert capsys.readouterr().out == shown


def test_costs_follow_prices_and_efficiency(capsys: pytest.CaptureFixture[str]) -> None:
    def costs(*arguments: str) -> list[float]:
        assert cost_table(["--efficiency", "1", "--utilisation", "1", *arguments]) == 0
        (line,) = (row for row in capsys.readouterr().out.splitlines() if "RTX 4090" in row)
        return [float(number) for number in re.findall(r"(\d+\.\d+)", line.split("|", 3)[3])]

    price, first, *_ = costs()
    # 53.0 TFLOP at 165 TFLOP/s.
    assert first == pytest.approx(0.32, abs=0.005)
    assert costs("--price", "RTX 4090=4")[2] == pytest.approx(
        1000 * 53.0 / 165 / 3600 * 4, abs=0.01
    )
    assert price == 0.40
    with pytest.raises(SystemExit):
        cost_table(["--price", "Voodoo 2=1"])


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA L40", None),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", None),
        ("NVIDIA RTX 6000 Ada Generation 48GB", None),
    ],
)
def test_gpus_are_recognised_by_driver_name(name: str, label: str | None) -> None:
    assert known_gpu(name) == (None if label is None else GPUS[label])
