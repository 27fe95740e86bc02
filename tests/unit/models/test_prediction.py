"""What weights state about their training: into the catalog's silence, or against its word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.catalog.scheduler import Prediction, SchedulerSpec, resolve_scheduler
from models.importer import ImportingError, import_catalog
from models.sources.fetcher import FetchOptions
from models.store.store import get_entry
from runners.diffusion.schedulers import build_scheduler
from testing.imports import store_at
from tests.support.files.single_files import WEIGHTS, Tensors, catalog_of, ldm_tensors, write

Import = Callable[..., SchedulerSpec]
EMPTY = torch.tensor([])
V_PREDICTION = 'prediction_type = "v_prediction"'
EPSILON = 'prediction_type = "epsilon"'
ZERO_SNR = "rescale_betas_zero_snr"


@pytest.fixture
def imported(tmp_path: Path) -> Iterator[Import]:
    """A function that imports a UNet and returns the variant's scheduler as the runner has it."""

    def run(tensors: Tensors, scheduler: str = "", **metadata: str) -> SchedulerSpec:
        unet = write(tmp_path / "own.safetensors", ldm_tensors("unet") | tensors, **metadata)
        catalog = catalog_of(tmp_path / "catalog", scheduler and f", {scheduler}", unet=unet)
        # Every call has a file of its own.
        catalog.file.with_suffix(".lock.json").unlink(missing_ok=True)
        import_catalog(catalog, FetchOptions(tmp_path / "downloads"))
        entry = get_entry(catalog, "models", "base")
        assert entry is not None
        return resolve_scheduler(catalog.models["base"].scheduler, entry.prediction)

    with store_at(tmp_path / "store"):
        yield run


@pytest.mark.parametrize(
    ("tensors", "metadata", "prediction_type", "zero_snr"),
    [
        ({}, {}, "epsilon", None),
        ({"v_pred": EMPTY}, {}, "v_prediction", None),
        ({"v_pred": EMPTY, "ztsnr": EMPTY}, {}, "v_prediction", True),
        ({"model.diffusion_model.v_pred": EMPTY}, {}, "v_prediction", None),
        ({"ztsnr": EMPTY}, {}, "epsilon", None),
        ({}, {"modelspec.prediction_type": "v"}, "v_prediction", None),
        ({}, {"modelspec.predict_key": "v"}, "v_prediction", None),
        ({"ztsnr": EMPTY}, {"modelspec.prediction_type": "v"}, "v_prediction", True),
        ({}, {"modelspec.prediction_type": "epsilon"}, "epsilon", None),
        ({"v_pred": EMPTY}, {"modelspec.prediction_type": "epsilon"}, "v_prediction", None),
    ],
)
def test_weights_state_what_the_catalog_leaves_out(
    imported: Import,
    tensors: Tensors,
    metadata: dict[str, str],
    prediction_type: str,
    zero_snr: bool | None,
) -> None:
    spec = imported(tensors, **metadata)
    assert spec.prediction_type == prediction_type
    assert spec.options.get(ZERO_SNR) is zero_snr
    for name in ("auto", "dpm_single", "ddim"):
        scheduler = build_scheduler(spec, name, None)
        assert scheduler.config.prediction_type == prediction_type
        assert (float(scheduler.alphas_cumprod[-1]) < 1e-6) == bool(zero_snr)


@pytest.mark.parametrize(
    ("tensors", "metadata", "scheduler", "values"),
    [
        ({"v_pred": EMPTY}, {}, EPSILON, r"has epsilon, but own.safetensors \(v_pred\) states v_"),
        ({}, {"modelspec.prediction_type": "epsilon"}, V_PREDICTION, "v_prediction.*epsilon"),
        (
            {"v_pred": EMPTY, "ztsnr": EMPTY},
            {},
            f"options = {{ {ZERO_SNR} = false }}",
            f"{ZERO_SNR}: the catalog has false, .* states true",
        ),
    ],
)
def test_a_contradiction_stops_the_import_with_both_values(
    imported: Import, tensors: Tensors, metadata: dict[str, str], scheduler: str, values: str
) -> None:
    with pytest.raises(ImportingError, match=f"models.base: scheduler.*{values}"):
        imported(tensors, scheduler, **metadata)


def test_a_contradiction_is_found_in_an_entry_that_was_imported_before(imported: Import) -> None:
    assert imported({"v_pred": EMPTY}, V_PREDICTION).prediction_type == "v_prediction"
    with pytest.raises(ImportingError, match="has epsilon"):
        imported({"v_pred": EMPTY}, EPSILON)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"edm_mean": EMPTY, "edm_std": EMPTY}, {}, "Playground v2.5's formulation of EDM"),
        ({"edm_vpred.sigma_max": torch.tensor(120.0)}, {}, "EDM with v-prediction"),
        ({}, {"modelspec.prediction_type": "rectified_flow"}, "'rectified_flow'"),
    ],
)
def test_formulations_without_a_scheduler_are_named(
    imported: Import, tensors: Tensors, metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(ImportingError, match=f"{message}.*no scheduler of this service"):
        imported(tensors, **metadata)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"prediction_type": "v_prediction", ZERO_SNR: True}, ("v_prediction", True)),
        # Exporters write the defaults for every model.
        ({"prediction_type": "epsilon", ZERO_SNR: False}, (None, None)),
    ],
)
def test_a_folders_scheduler_counts_where_it_is_not_the_default(
    tmp_path: Path, settings: dict[str, Any], expected: tuple[Any, Any]
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(WEIGHTS, folder, ignore=shutil.ignore_patterns("hyper", "lightning", "loras"))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    catalog = catalog_of(tmp_path / "catalog", weights=folder)
    with store_at(tmp_path / "store"):
        import_catalog(catalog, FetchOptions(tmp_path / "downloads"))
        entry = get_entry(catalog, "models", "base")
    assert entry is not None
    stated = entry.prediction
    assert (stated.prediction_type, stated.zero_terminal_snr) == expected


def test_the_catalogs_word_is_kept() -> None:
    spec = SchedulerSpec(**{"class": "EulerDiscreteScheduler"}, prediction_type="v_prediction")
    assert resolve_scheduler(spec, Prediction()) == spec
