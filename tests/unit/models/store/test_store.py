"""Importing, the store and model_cache, in a store of their own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.settings import Settings
from models.__main__ import main
from models.catalog import SHIPPED, load_catalog
from models.store.inventory import LiveInventory, require_servable
from models.store.store import StoreError, get_entry
from runners.errors import LoadError, UnusableWeightsError, to_failure
from runners.server.app import RunnerApp
from runners.server.startup_timer import StartupTimer
from runners.weights.model_cache import ModelCache
from testing.imports import store_at
from testing.weight_files.random_loras import lora_file
from testing.workbench import DEVICE, WEIGHTS, demo_networks

pytestmark = pytest.mark.slow

WEIGHT_FILE = "diffusion_pytorch_model.safetensors"


def models(home: Path, *arguments: str) -> int:
    """The exit status of `python -m models` where the Bento store is at `home`."""
    with store_at(home):
        return main([*arguments])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bentoml")
    assert models(path, "import", "--catalog", "demo") == 0
    return path


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """A store of the test's own, with the demo set."""
    path = tmp_path / "copy"
    shutil.copytree(home, path)
    return path


def test_importing_again_changes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert models(home, "import", "--catalog", "demo") == 0
    assert "imported" not in capsys.readouterr().out
    assert models(home, "list", "--catalog", "demo") == 0
    listed = capsys.readouterr().out
    assert "demo.models.base:" in listed
    assert "missing" not in listed


def test_a_second_catalog_shares_equal_components(copy: Path, tmp_path: Path) -> None:
    text = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
    text = text.replace('name = "demo"', 'name = "own"')
    (tmp_path / "own.toml").write_text(
        text.replace("file:../demo/weights", f"file:{WEIGHTS}"), encoding="utf-8"
    )
    before = sorted(path.name for path in copy.glob("models/sdxl-*/*"))
    assert models(copy, "import", "--catalog", str(tmp_path / "own.toml")) == 0
    assert sorted(path.name for path in copy.glob("models/sdxl-*/*")) == before


def test_a_damaged_file_is_found(
    home: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (weights,) = copy.glob(f"models/sdxl-vae/*/{WEIGHT_FILE}")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert models(home, "verify") == 0
    capsys.readouterr()
    assert models(copy, "verify") == 1
    assert "sdxl-vae" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "content"),
    [("import", b""), ("verify", None), ("list", b"name: ["), ("import", b"name: sdxl-vae\n")],
)
def test_unreadable_model_is_reported_not_taken_as_missing(
    copy: Path, capsys: pytest.CaptureFixture[str], command: str, content: bytes | None
) -> None:
    (manifest,) = copy.glob("models/sdxl-vae/*/model.yaml")
    manifest.unlink()
    if content is not None:
        manifest.write_bytes(content)
    assert models(copy, command, "--catalog", "demo") == 1
    said = capsys.readouterr().err
    assert f"unreadable. Delete the folder {manifest.parent} and import again" in said
    assert "Traceback" not in said
    shutil.rmtree(manifest.parent)
    assert models(copy, "import", "--catalog", "demo") == 0
    assert models(copy, "verify") == 0


def test_empty_store_error_lists_models_and_import_command(tmp_path: Path) -> None:
    with store_at(tmp_path), pytest.raises(StoreError) as caught:
        require_servable(load_catalog("demo"))
    assert "models.base, controlnets.sdxl_small" in str(caught.value)
    assert "python -m models import --catalog demo" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda folder: shutil.rmtree(folder / "vae"), "no folder vae"),
        (
            lambda folder: (folder / "unet" / WEIGHT_FILE).rename(
                folder / "unet" / "diffusion_pytorch_model.bin"
            ),
            "diffusion_pytorch_model.bin: only safetensors",
        ),
        (lambda folder: (folder / "unet" / WEIGHT_FILE).unlink(), "no safetensors weights"),
        (lambda folder: (folder / "unet" / "config.json").unlink(), "no config.json"),
        (
            lambda folder: (folder / "unet" / WEIGHT_FILE).write_bytes(b"PK\x03\x04" + bytes(99)),
            WEIGHT_FILE,
        ),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_a_source_that_cannot_be_imported_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], object],
    named: str,
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(WEIGHTS, folder)
    change(folder)
    text = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
    catalog = tmp_path / "own.toml"
    catalog.write_text(text.replace("file:../demo/weights", "file:weights"), encoding="utf-8")
    assert models(tmp_path / "home", "import", "--catalog", str(catalog)) == 1
    said = capsys.readouterr().err
    assert named in said
    assert "Traceback" not in said


def catalog_with_lora(tmp_path: Path, name: str) -> Path:
    """The demo's catalog with a LoRA of that name from a file beside it."""
    text = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
    text += f'\n[loras.{name}]\nsource = "file:{name}.safetensors"\nlicence = "none"\n'
    file = tmp_path / "own.toml"
    file.write_text(text.replace("file:../demo/weights", f"file:{WEIGHTS}"), encoding="utf-8")
    return file


def test_loras_are_imported_and_read(tmp_path: Path) -> None:
    path = lora_file(tmp_path / "own.safetensors", demo_networks("base")[0].unet, "kohya", 1, 2)
    save_file({**load_file(path), "emphasis_scale": torch.tensor(1.0)}, path)
    file = catalog_with_lora(tmp_path, "own")
    assert models(tmp_path / "home", "import", "--catalog", str(file)) == 0
    catalog = load_catalog(str(file))
    with store_at(tmp_path / "home"):
        entry = get_entry(catalog, "loras", "own")
        assert entry is not None
        assert entry.notes == ("not applied: emphasis_scale (unknown)",)
        model_cache = ModelCache(catalog, LiveInventory(catalog), DEVICE)
        variant = model_cache.load_variant("base")
        model_cache.load_loras("base", ["own"])
        assert variant.loras.names == ("own",)
        assert variant.loras.warnings == {"own": f"lora own: {entry.notes[0]}"}
        with pytest.raises(LoadError, match="absent"):
            model_cache.load_loras("base", ["absent"])
        model_cache.unload_variant("base")
        (stored,) = entry.components["lora"].path.glob("*.safetensors")
        save_file({"no.lora.weight": torch.zeros(2)}, stored)
        model_cache.load_variant("base")
        with pytest.raises(UnusableWeightsError, match="own for model base") as caught:
            model_cache.load_loras("base", ["own"])
        assert "/" not in str(caught.value)
        assert to_failure(caught.value).error == "invalid_request"
    assert model_cache.errors


@pytest.mark.parametrize(("state", "message"), [
    ({"no.lora.weight": torch.zeros(2)}, "no LoRA"),
    ({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.tensor([[torch.nan]])},
     "NaN or infinity"),
    ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(2, 2)}, "for Flux"),
])  # fmt: skip
def test_files_that_are_no_loras_are_refused_at_import(
    state: dict[str, torch.Tensor],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_file(state, tmp_path / "own.safetensors")
    file = catalog_with_lora(tmp_path, "own")
    assert models(tmp_path / "home", "import", "--catalog", str(file)) == 1
    said = capsys.readouterr().err
    assert "loras.own: own.safetensors: " in said
    assert message in said


def test_missing_default_model_does_not_stop_the_start(home: Path, tmp_path: Path) -> None:
    text = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
    text = text.replace('default_model = "lightning"', 'default_model = "absent"')
    absent = (
        '[models.absent]\nsource = "file:absent"\nlicence = "none"\nnative_size = 256\n'
        'steps = 6\ncfg = 1.0\nscheduler = { class = "EulerDiscreteScheduler" }\n'
    )
    catalog = tmp_path / "partial.toml"
    catalog.write_text(text + absent, encoding="utf-8")
    with store_at(home):
        app = RunnerApp(load_catalog(str(catalog)), Settings(), [DEVICE], StartupTimer(time.time()))
        for worker in app.pool.workers:
            worker.engine.start()
        app.boot()
        status = app.status()
        app.close()
    assert (status.state, status.loaded_models) == ("degraded", ("lightning",)), status


def test_model_cache_loads_once_shares_and_reports_failures(copy: Path) -> None:
    catalog = load_catalog("demo")
    with store_at(copy):
        found = require_servable(catalog)
        model_cache = ModelCache(catalog, LiveInventory(catalog), DEVICE)
        first = model_cache.load_variant("base")
        assert model_cache.load_variant("base") is first
        model_cache.load_controlnet("sdxl_small")
        assert list(model_cache.variants) == ["base"]
        assert model_cache.unload_variant("base")
        assert not model_cache.unload_variant("base")
        assert set(model_cache.resident_bytes) == {"controlnet"}, "the variant's components stayed"
        again = model_cache.load_variant("base")
        assert again.unet is not first.unet
        pairs = zip(again.unet.parameters(), first.unet.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        student = model_cache.load_variant("hyper")
        assert student.unet is not again.unet
        assert student.vae is again.vae
        assert student.tiny_decoder is again.tiny_decoder
        assert student.text_encoders == again.text_encoders
        assert student.text_encoder_key == again.text_encoder_key
        model_cache.unload_variant("hyper")
        with pytest.raises(LoadError, match="turbo"):
            model_cache.load_variant("turbo")
        model_cache.unload_variant("base")
        path = found.models["base"].components["unet"].path / WEIGHT_FILE
        path.write_bytes(b"junk")
        with pytest.raises(LoadError) as caught:
            model_cache.load_variant("base")
        assert str(caught.value) == "model base: its unet could not be loaded"
        assert model_cache.errors
        assert not model_cache.variants
