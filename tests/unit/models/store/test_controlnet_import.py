"""ControlNets of every form from their source to a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from safetensors.torch import load_file, save_file

from models.__main__ import main
from models.catalog import Catalog, load_catalog
from models.importer import ImportingError, import_catalog
from models.store.inventory import LiveInventory
from models.store.store import get_entry
from runners.diffusion.schedulers import build_scheduler
from runners.engine.engine import Engine
from runners.weights.model_cache import ModelCache
from testing.imports import store_at
from testing.random_networks import demo_union
from testing.weight_files.controlnets import ldm_tensors, network, write_file, write_folder
from testing.workbench import (
    DEVICE,
    UNION,
    WEIGHTS,
    Listener,
    ResidentLoader,
    finished,
    make_job,
    reference_arguments,
    reference_pipeline,
)
from tests.support.images.pictures import hill

pytestmark = pytest.mark.slow

WEIGHT_FILE = "diffusion_pytorch_model.safetensors"
_VARIANT = f"""
name = "own"
default_model = "base"
default_controlnet = "folder"
[models.base]
source = "file:{WEIGHTS}"
licence = "none"
native_size = 256
steps = 4
cfg = 1.0
scheduler = {{ class = "EulerDiscreteScheduler" }}
"""


def write_catalog(place: Path, **controlnets: str) -> Path:
    """A catalog with the demo's base and ControlNets from files beside it."""
    entries = "".join(
        f'[controlnets.{name}]\nsource = "file:{source}"\nlicence = "none"\n'
        for name, source in controlnets.items()
    )
    default = next(iter(controlnets))
    text = _VARIANT.replace('"folder"', f'"{default}"')
    (place / "own.toml").write_text(text + entries, encoding="utf-8")
    return place / "own.toml"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Catalog]:
    """A store's home and its catalog, with the demo's ControlNet in five forms and a union."""
    folder = tmp_path_factory.mktemp("site")
    plain = ControlNetModel.from_pretrained(WEIGHTS / "controlnet", dtype=torch.float16)
    tensors = load_file(WEIGHTS / "controlnet" / WEIGHT_FILE)
    original = ldm_tensors(plain)
    write_file(folder / "depth.SAFETENSORS", tensors, "controlnet.")
    write_file(folder / "control_depth.sft", original, "control_model.")
    write_file(folder / "bare" / "any_name.safetensors", tensors)
    write_folder(folder / "half", plain, "diffusion_pytorch_model.fp16.safetensors")
    union = demo_union()
    write_file(folder / "union_promax.safetensors", union.state_dict())
    write_folder(folder / "union", union, _class_name="ControlNetModel")
    file = write_catalog(
        folder,
        folder=str(WEIGHTS / "controlnet"),
        file="depth.SAFETENSORS",
        ldm="control_depth.sft",
        bare="bare",
        half="half",
        union="union_promax.safetensors",
        union_folder="union",
    )
    with store_at(folder / "home"):
        catalog = load_catalog(str(file))
        assert import_catalog(catalog) == 8
        assert import_catalog(catalog) == 0
    return folder / "home", catalog


def paint(site: tuple[Path, Catalog], controlnet: str, **changes: Any) -> np.ndarray[Any, Any]:
    home, catalog = site
    with store_at(home):
        cache = ModelCache(catalog, LiveInventory(catalog), DEVICE)
        networks = cache.load_variant("base"), cache.load_controlnet(controlnet)
    engine = Engine(ResidentLoader({"base": networks}), DEVICE)  # type: ignore[arg-type]
    listener = Listener()
    job = make_job(hill(64, 64), controlnet=controlnet, steps=4, seed=7, scheduler="euler")
    engine.submit(job, listener)
    (end,) = finished(engine, [listener])
    return np.asarray(Image.open(io.BytesIO(end.images[0])), dtype=int)


@pytest.mark.parametrize("form", ["file", "ldm", "bare", "half"])
def test_every_form_of_a_controlnet_gives_the_same_picture(
    site: tuple[Path, Catalog], form: str
) -> None:
    expected = paint(site, "folder")
    assert np.abs(paint(site, form) - expected).max() <= 1
    assert np.abs(paint(site, "union") - expected).max() > 20


def test_equal_controlnets_are_stored_and_loaded_once(site: tuple[Path, Catalog]) -> None:
    home, catalog = site
    with store_at(home):
        forms = ("folder", "file", "ldm", "bare", "half")
        entries = [get_entry(catalog, "controlnets", name) for name in forms]
        assert len({entry.components["controlnet"].tag for entry in entries if entry}) == 1
        cache = ModelCache(catalog, LiveInventory(catalog), DEVICE)
        first, second = (cache.load_controlnet(name) for name in ("folder", "ldm"))
    assert first.network is second.network
    depth = torch.rand(1, 3, 64, 64)
    assert second.hint(depth).shape == (1, 48, 8, 8)
    assert torch.equal(first.hint(depth), second.hint(depth))


@pytest.mark.parametrize("form", ["union", "union_folder"])
def test_an_imported_union_equals_diffusers_union_pipeline(
    site: tuple[Path, Catalog], form: str
) -> None:
    job = make_job(hill(64, 64), controlnet=UNION, steps=4, seed=7, scheduler="euler")
    pipeline = reference_pipeline((), UNION)
    _, catalog = site
    pipeline.scheduler = build_scheduler(catalog.models["base"].scheduler, "euler", None)
    (reference,) = pipeline(**reference_arguments([job])).images
    assert np.abs(paint(site, form) - np.asarray(reference, dtype=int)).max() <= 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cross_attention_dim": 768}, "a ControlNet for Stable Diffusion 1.5"),
        ({"cross_attention_dim": 1024}, "a ControlNet for Stable Diffusion 2"),
        ({}, "no ControlNet for model base, because its projection_class_embeddings_input_dim"),
    ],
)
def test_a_controlnet_that_fits_no_variant_is_refused_at_import(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], named: str
) -> None:
    write_folder(tmp_path / "sd", network("full", **changes))
    file = write_catalog(tmp_path, sd="sd")
    with store_at(tmp_path / "home"):
        assert main(["import", "--catalog", str(file)]) == 1
        assert get_entry(load_catalog(str(file)), "controlnets", "sd") is None
    said = capsys.readouterr().err
    assert f"controlnets.sd: {WEIGHT_FILE}: {named}" in said
    assert "name a ControlNet for SDXL" in said
    assert "Traceback" not in said


def test_a_stored_controlnet_is_compared_with_new_variants(tmp_path: Path) -> None:
    file = write_catalog(tmp_path, folder=str(WEIGHTS / "controlnet"))
    with store_at(tmp_path / "home"):
        import_catalog(load_catalog(str(file)))
        wider = tmp_path / "unet"
        wider.mkdir()
        text = (WEIGHTS / "unet" / "config.json").read_text(encoding="utf-8")
        text = text.replace('"cross_attention_dim": 160', '"cross_attention_dim": 2048')
        (wider / "config.json").write_text(text, encoding="utf-8")
        save_file(load_file(WEIGHTS / "unet" / WEIGHT_FILE), wider / WEIGHT_FILE)
        changed = file.read_text(encoding="utf-8").replace(
            'licence = "none"\nnative', 'unet = "file:unet"\nlicence = "none"\nnative'
        )
        file.write_text(changed, encoding="utf-8")
        for _ in range(2):
            with pytest.raises(ImportingError, match="cross_attention_dim is 160 where model base"):
                import_catalog(load_catalog(str(file)), repin=True)


def test_ambiguous_and_foreign_sources_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "several"
    for name in ("canny", "depth"):
        write_file(folder / f"{name}.safetensors", {"a": torch.zeros(1)})
    write_file(tmp_path / "lora.safetensors", {"lora_controlnet": torch.zeros(0)})
    (tmp_path / "old.pth").write_bytes(b"PK\x03\x04")
    for source, named in (
        ("several", "several weight files (canny.safetensors, depth.safetensors); name one"),
        ("lora.safetensors", "lora.safetensors: a control-LoRA, which this service"),
        ("old.pth", "old.pth: only safetensors weights are read"),
    ):
        file = write_catalog(tmp_path, x=source)
        with store_at(tmp_path / "home"):
            assert main(["import", "--catalog", str(file)]) == 1
        assert named in capsys.readouterr().err
