"""Importing, the store and model_cache, in a store of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.catalog import SHIPPED
from testing.server import ROOT
from testing.workbench import DEVICE, WEIGHTS, demo_networks
from tests.support.files.lora_files import lora_file

pytestmark = pytest.mark.slow

WEIGHT_FILE = "diffusion_pytorch_model.safetensors"


def run(home: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process whose Bento store is at `home`."""
    environment = {**os.environ, "BENTOML_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def models(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(home, f"from models.__main__ import main; raise SystemExit(main({[*arguments]!r}))")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bentoml")
    done = models(path, "import", "--catalog", "demo")
    assert done.returncode == 0, done.stderr
    return path


def test_importing_again_changes_nothing(home: Path) -> None:
    again = models(home, "import", "--catalog", "demo")
    assert again.returncode == 0
    assert "imported" not in again.stdout
    listed = models(home, "list", "--catalog", "demo")
    assert "demo.models.base:" in listed.stdout
    assert "missing" not in listed.stdout


def test_a_second_catalog_shares_equal_components(home: Path, tmp_path: Path) -> None:
    text = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
    text = text.replace('name = "demo"', 'name = "own"')
    (tmp_path / "own.toml").write_text(
        text.replace("file:../demo/weights", f"file:{WEIGHTS}"), encoding="utf-8"
    )
    before = sorted(path.name for path in home.glob("models/sdxl-*/*"))
    done = models(home, "import", "--catalog", str(tmp_path / "own.toml"))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in home.glob("models/sdxl-*/*")) == before


def test_a_damaged_file_is_found(home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(home, copy)
    (weights,) = copy.glob("models/sdxl-vae/*/diffusion_pytorch_model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert models(home, "verify").returncode == 0
    found = models(copy, "verify")
    assert found.returncode == 1
    assert "sdxl-vae" in found.stdout


@pytest.mark.parametrize(
    ("command", "content"),
    [("import", b""), ("verify", None), ("list", b"name: ["), ("import", b"name: sdxl-vae\n")],
)
def test_unreadable_model_is_reported_not_taken_as_missing(
    home: Path, tmp_path: Path, command: str, content: bytes | None
) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(home, copy)
    (manifest,) = copy.glob("models/sdxl-vae/*/model.yaml")
    manifest.unlink()
    if content is not None:
        manifest.write_bytes(content)
    done = models(copy, command, "--catalog", "demo")
    assert done.returncode == 1
    assert f"unreadable. Delete the folder {manifest.parent} and import again" in done.stderr
    assert "Traceback" not in done.stderr
    shutil.rmtree(manifest.parent)
    assert models(copy, "import", "--catalog", "demo").returncode == 0
    assert models(copy, "verify").returncode == 0


def test_empty_store_error_lists_models_and_import_command(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        "from models.catalog import load_catalog\n"
        "from models.store.inventory import require_servable\n"
        "require_servable(load_catalog('demo'))",
    )
    assert done.returncode != 0
    assert "models.base, controlnets.sdxl_small" in done.stderr
    assert "python -m models import --catalog demo" in done.stderr


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
    tmp_path: Path, change: object, named: str
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(WEIGHTS, folder)
    assert callable(change)
    change(folder)
    text = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
    catalog = tmp_path / "own.toml"
    catalog.write_text(text.replace("file:../demo/weights", "file:weights"), encoding="utf-8")
    done = models(tmp_path / "home", "import", "--catalog", str(catalog))
    assert done.returncode == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr


MODEL_CACHE = f"""
from models.catalog import load_catalog
from models.store.inventory import LiveInventory, require_servable
from runners.device import Device
from runners.errors import LoadError
from runners.weights.model_cache import ModelCache
import torch
catalog = load_catalog("demo")
found = require_servable(catalog)
device = Device(torch.device("cpu"), torch.{str(DEVICE.dtype)[6:]})
model_cache = ModelCache(catalog, LiveInventory(catalog), device)
first = model_cache.load_variant("base")
assert model_cache.load_variant("base") is first
model_cache.load_controlnet("sdxl_small")
assert list(model_cache.variants) == ["base"]
assert model_cache.unload_variant("base") and not model_cache.unload_variant("base")
assert set(model_cache.resident_bytes) == {{"controlnet"}}, "the variant's components stayed"
again = model_cache.load_variant("base")
assert again.unet is not first.unet
assert all(torch.equal(a, b) for a, b in zip(again.unet.parameters(), first.unet.parameters()))
student = model_cache.load_variant("hyper")
assert student.unet is not again.unet
assert student.vae is again.vae and student.tiny_decoder is again.tiny_decoder
assert student.text_encoders == again.text_encoders
assert student.text_encoder_key == again.text_encoder_key
model_cache.unload_variant("hyper")
try:
    model_cache.load_variant("turbo")
except LoadError as error:
    assert "turbo" in str(error)
else:
    raise AssertionError
model_cache.unload_variant("base")
path = found.models["base"].components["unet"].path / "diffusion_pytorch_model.safetensors"
path.write_bytes(b"junk")
try:
    model_cache.load_variant("base")
except LoadError as error:
    assert str(error) == "model base: its unet could not be loaded", error
assert model_cache.errors
assert not model_cache.variants
"""


LORA = """
from pathlib import Path
import torch
from models.catalog import load_catalog
from models.store.inventory import LiveInventory, require_servable
from runners.device import Device
from runners.errors import LoadError
from runners.weights.model_cache import ModelCache
catalog = load_catalog("{catalog}")
device = Device(torch.device("cpu"), torch.float32)
model_cache = ModelCache(catalog, LiveInventory(catalog), device)
variant = model_cache.load_variant("base")
model_cache.load_loras("base", ["own"])
assert variant.loras.names == ("own",)
for name in ("broken", "absent"):
    try:
        model_cache.load_loras("base", [name])
    except LoadError as error:
        assert name in str(error) and "/" not in str(error), error
    else:
        raise AssertionError(name)
assert model_cache.errors
"""


def test_loras_are_imported_and_read(tmp_path: Path) -> None:
    lora_file(tmp_path / "own.safetensors", demo_networks("base")[0].unet, "kohya", 1, rank=2)
    save_file({"no.lora.weight": torch.zeros(2)}, tmp_path / "broken.safetensors")
    text = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
    for name in ("own", "broken"):
        text += f'\n[loras.{name}]\nsource = "file:{name}.safetensors"\nlicence = "none"\n'
    catalog = tmp_path / "own.toml"
    catalog.write_text(text.replace("file:../demo/weights", f"file:{WEIGHTS}"), encoding="utf-8")
    done = models(tmp_path / "home", "import", "--catalog", str(catalog))
    assert done.returncode == 0, done.stderr
    done = run(tmp_path / "home", LORA.format(catalog=catalog))
    assert done.returncode == 0, done.stderr


HOST = """
from runners.server.app import RunnerApp
from tests.support.waiting import wait_until
host = RunnerApp.start()
wait_until(lambda: host.status().state != "loading_models", seconds=300)
status = host.status()
assert (status.state, status.loaded_models) == ("ready", ("lightning",)), status
host.close()
"""


def test_missing_default_model_does_not_stop_the_start(home: Path, tmp_path: Path) -> None:
    text = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
    text = text.replace('default_model = "lightning"', 'default_model = "absent"')
    absent = (
        '[models.absent]\nsource = "file:absent"\nlicence = "none"\nnative_size = 256\n'
        'steps = 6\ncfg = 1.0\nscheduler = { class = "EulerDiscreteScheduler" }\n'
    )
    catalog = tmp_path / "partial.toml"
    catalog.write_text(text + absent, encoding="utf-8")
    done = run(home, f"import os; os.environ['CATALOG'] = {str(catalog)!r}\n{HOST}")
    assert done.returncode == 0, done.stderr


def test_model_cache_loads_once_shares_and_reports_failures(home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    done = run(copy, MODEL_CACHE)
    assert done.returncode == 0, done.stderr
