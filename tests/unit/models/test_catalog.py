"""The shipped catalogs and the errors of invalid ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.catalog import SHIPPED, CatalogError, load_catalog
from models.demo.training.data.eras import ERAS
from models.sources.base import parse_source

DEMO = (SHIPPED / "demo.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["demo", "experimance"])
def test_shipped_catalogs_are_valid(name: str) -> None:
    catalog = load_catalog(name)
    assert catalog.name == name
    assert catalog.default_model in catalog.models


def test_production_figures() -> None:
    catalog = load_catalog("experimance")
    defaults = {name: (spec.steps, spec.cfg) for name, spec in catalog.models.items()}
    assert defaults == {"lightning": (6, 1.5), "hyper": (6, 2.0), "base": (20, 7.5)}
    assert {spec.native_size for spec in catalog.models.values()} == {1024}
    assert catalog.eras["wilderness"].loras == {"drone": 0.8, "experimance": 0.4}
    assert catalog.eras["future"].loras == {"experimance": 1.1}
    assert catalog.models["base"].scheduler.options["algorithm_type"] == "sde-dpmsolver++"
    assert catalog.models["hyper"].scheduler.options["timestep_spacing"] == "leading"


def test_both_catalogs_define_equal_eras_and_loras() -> None:
    demo, production = load_catalog("demo"), load_catalog("experimance")
    assert {name: era.loras for name, era in demo.eras.items()} == {
        name: era.loras for name, era in production.eras.items()
    }
    assert set(demo.eras) == {*ERAS, "none"}


def test_the_demo_set_lies_in_the_repository() -> None:
    catalog = load_catalog("demo")
    sections = (catalog.models, catalog.controlnets, catalog.loras, catalog.depth_estimators)
    for spec in (spec for section in sections for spec in section.values()):
        assert Path(parse_source(spec.source, catalog.folder).path).exists()


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ('default_model = "lightning"', 'default_model = "turbo"', "turbo"),
        ('default_controlnet = "sdxl_small"', 'default_controlnet = "huge"', "huge"),
        ("steps = 20", "steps = 51", "models.base.steps"),
        (
            "cfg = 2.0",
            "cfg = 2.0\nguidance_start = 0.6\nguidance_end = 0.4",
            r"guidance_start: must be at most guidance_end \(0.4\)",
        ),
        ("native_size = 256", "native_size = 250", "native_size"),
        (
            "speeds.fast = { guidance_end = 0.5",
            "speeds.fast = { guidance_start = 0.6, guidance_end = 0.5",
            r"models.base.speeds.fast: .*must be at most guidance_end \(0.5\)",
        ),
        ("cfg = 2.0", "cfg = 2.0\nspeeds.slow = { steps = 9 }", "models.base.speeds.slow"),
        ('class = "DPM', 'class = "XPM', "scheduler.class"),
        ('source = "file:', 'source = "ftp:', "models.lightning.source"),
        ("loras = { drone = 0.8", "loras = { dron = 0.8", "dron"),
        ("[eras.modern]", "[eras.modern]\ncolour = 1", "eras.modern.colour"),
        ('unet = "file:', 'unet = "ftp:', "models.lightning.unet"),
        ('default_depth_estimator = "relief"', 'default_depth_estimator = "x"', "'x' is not among"),
        ('gives = "distance"', "", "gives: loader transformers needs one of distance, inverse_"),
        ('gives = "distance"', 'gives = "far"', "depth_estimators.relief.gives"),
        ('gives = "distance"', 'loader = "onnx"', "depth_estimators.relief.loader"),
        ('gives = "distance"', 'loader = "controlnet_aux"', "source: controlnet_aux needs one"),
        (
            'depth_estimator"\nlicence = "Apache-2.0"',
            'x.safetensors"\nlicence = "x"\nloader = "controlnet_aux"',
            "detector: loader controlnet_aux needs one of midas, zoe",
        ),
        (
            'depth_estimator"\nlicence = "Apache-2.0"',
            'x.safetensors"\nlicence = "x"\nloader = "controlnet_aux"\ndetector = "zoe"',
            "gives: must be left out with loader controlnet_aux",
        ),
        ('tiny_decoder = "file:', 'tiny_decoder = "', "models.lightning.tiny_decoder"),
    ],
)
def test_invalid_catalog_error_names_the_location(
    tmp_path: Path, before: str, after: str, named: str
) -> None:
    assert before in DEMO
    path = tmp_path / "own.toml"
    path.write_text(DEMO.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(CatalogError, match=named):
        load_catalog(str(path))


def test_an_operators_own_file_resolves_its_own_folder(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(DEMO, encoding="utf-8")
    catalog = load_catalog(str(path))
    assert parse_source("file:weights", catalog.folder).path == str(tmp_path.resolve() / "weights")


def test_a_single_file_needs_tokenizers_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(DEMO.replace('"file:../demo/weights"', '"gs://b/x.safetensors"'), "utf-8")
    with pytest.raises(CatalogError, match=r"models.base: Value error, tokenizer, tokenizer_2"):
        load_catalog(str(path))


def test_unknown_catalog_error_lists_shipped_catalogs() -> None:
    with pytest.raises(CatalogError, match="demo, experimance"):
        load_catalog("sd15")


@given(st.text(max_size=200))
def test_any_invalid_file_raises_catalog_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("catalog") / "own.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CatalogError):
        load_catalog(str(path))
