"""Depth models of both libraries: their own maps, near = bright, NaN and infinity rejected."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    BeitConfig,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessorPil,
    ZoeDepthConfig,
    ZoeDepthForDepthEstimation,
    ZoeDepthImageProcessorPil,
    pipeline,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES

from models.catalog import DepthEstimatorSpec
from models.conversion.config import DEPTH_MODELS
from models.demo.training.data.rendering import render
from models.demo.training.data.terrain import make_terrain
from runners.errors import LoadError, NonFiniteError
from runners.networks.depth_estimators import (
    DetectorEstimator,
    TransformersEstimator,
    load_estimator,
)
from testing.workbench import DEVICE, WEIGHTS

RELIEF = WEIGHTS / "depth_estimator"
TERRAIN = make_terrain(9_100_001, (256, 320), "ridges")
PICTURE = render(TERRAIN.height, "wilderness", 3)


def spec(**changes: Any) -> DepthEstimatorSpec:
    return DepthEstimatorSpec(
        **{"source": "file:x.safetensors", "licence": "x", "gives": "distance", **changes}
    )


def of_the_pipeline(folder: Path, picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What transformers' own pipeline draws, large numbers bright."""
    estimate = pipeline("depth-estimation", model=str(folder), dtype=torch.float32)
    return np.asarray(estimate(Image.fromarray(picture))["depth"]).astype(int)


def dpt(folder: Path) -> Path:
    """A small DPT of random weights, which gives inverse depth."""
    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64,
        image_size=64, patch_size=16, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 16, 16], fusion_hidden_size=16, is_hybrid=False,
    )  # fmt: skip
    network = DPTForDepthEstimation(config)
    torch.nn.init.constant_(network.head.head[-2].bias, 0.5)
    network.save_pretrained(folder)
    processor = DPTImageProcessorPil(
        size={"height": 64, "width": 64}, keep_aspect_ratio=True, ensure_multiple_of=32
    )
    save_processor(processor, folder)
    return folder


def zoe(folder: Path) -> Path:
    """A small ZoeDepth of random weights, which gives distance, and pads what it is given."""
    torch.manual_seed(0)
    beit = BeitConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64,
        image_size=64, patch_size=16, out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
        use_relative_position_bias=True,
    )  # fmt: skip
    config = ZoeDepthConfig(
        backbone_config=beit, neck_hidden_sizes=[16, 16, 16, 16], fusion_hidden_size=16,
        bottleneck_features=16, bin_embedding_dim=16, backbone_hidden_size=32,
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
        num_relative_features=8, num_attractors=[4, 2, 2, 1],
    )  # fmt: skip
    ZoeDepthForDepthEstimation(config).save_pretrained(folder)
    save_processor(ZoeDepthImageProcessorPil(size={"height": 64, "width": 64}), folder)
    return folder


def save_processor(processor: Any, folder: Path) -> None:
    processor.save_pretrained(folder)
    file = folder / "preprocessor_config.json"
    # As publishers write it: whichever of its forms is installed serves.
    file.write_text(file.read_text().replace("ImageProcessorPil", "ImageProcessor"))


def test_every_kind_that_is_accepted_is_one_of_transformers() -> None:
    assert set(MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES) >= DEPTH_MODELS


@pytest.mark.parametrize(
    ("make", "gives"),
    [(lambda _: RELIEF, "distance"), (dpt, "inverse_depth"), (zoe, "distance")],
    ids=["glpn", "dpt", "zoedepth"],
)
def test_maps_are_the_pipelines_with_near_bright(
    tmp_path: Path, make: Callable[[Path], Path], gives: str
) -> None:
    folder = make(tmp_path)
    estimator = load_estimator(spec(gives=gives), folder, DEVICE)
    found = estimator.estimate(PICTURE)
    assert (found.dtype, found.shape) == (np.uint8, PICTURE.shape[:2])
    assert (found.min(), found.max()) == (0, 255)
    drawn = of_the_pipeline(folder, PICTURE)
    if gives == "distance":
        drawn = 255 - drawn
    assert np.abs(found - drawn).max() <= 1
    again = load_estimator(spec(gives=gives), folder, DEVICE).estimate(PICTURE)
    np.testing.assert_array_equal(found, again)


def test_demo_estimator_correlates_with_demo_terrain() -> None:
    estimator = load_estimator(spec(), RELIEF, DEVICE)
    found = estimator.estimate(PICTURE)
    assert np.corrcoef(found.ravel(), TERRAIN.depth.ravel())[0, 1] > 0.85


def test_constant_depth_gives_a_flat_map(tmp_path: Path) -> None:
    estimator = load_estimator(spec(gives="inverse_depth"), dpt(tmp_path), DEVICE)
    with torch.no_grad():
        for parameter in estimator.network.parameters():
            parameter.zero_()
    assert not estimator.estimate(PICTURE).any()


def test_nonfinite_depth_raises(tmp_path: Path) -> None:
    estimator = load_estimator(spec(gives="inverse_depth"), dpt(tmp_path), DEVICE)
    next(estimator.network.parameters()).data.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        estimator.estimate(PICTURE)


def test_missing_processor_config_uses_the_default(tmp_path: Path) -> None:
    folder = dpt(tmp_path)
    (folder / "preprocessor_config.json").unlink()
    found = TransformersEstimator(folder, DEVICE, is_distance=False).estimate(PICTURE)
    assert found.shape == PICTURE.shape[:2]


def test_glpn_input_is_resized_to_its_maximum_size(tmp_path: Path) -> None:
    shutil.copytree(RELIEF, tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").unlink()
    estimator = TransformersEstimator(tmp_path, DEVICE, is_distance=True)
    seen: list[tuple[int, ...]] = []
    estimator.network.register_forward_pre_hook(
        lambda module, arguments, named: seen.append(tuple(named["pixel_values"].shape[2:])),
        with_kwargs=True,
    )
    found = estimator.estimate(np.zeros((256, 2048, 3), np.uint8))
    assert found.shape == (256, 2048)
    assert seen == [(64, 640)]


def test_missing_weights_raise_instead_of_random_init(tmp_path: Path) -> None:
    folder = dpt(tmp_path)
    network = DPTForDepthEstimation.from_pretrained(folder)
    weights = dict(network.state_dict())
    unused = "neck.fusion_stage.layers.0.residual_layer1."
    kept = {name: value for name, value in weights.items() if not name.startswith(unused)}
    # Publishers leave these out, for nothing reaches them.
    save_file(kept, folder / "model.safetensors")
    TransformersEstimator(folder, DEVICE, is_distance=False)
    kept.pop("head.head.0.weight")
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 weights are missing, such as \['head.head.0.weight"):
        TransformersEstimator(folder, DEVICE, is_distance=False)


DETECTOR = {"loader": "controlnet_aux", "gives": None}


def test_missing_controlnet_aux_is_named_in_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "controlnet_aux", None)
    save_file({"a": torch.zeros(1)}, tmp_path / "detector.safetensors")
    with pytest.raises(LoadError, match="detector midas needs the package controlnet-aux"):
        load_estimator(spec(**DETECTOR, detector="midas"), tmp_path, DEVICE)


class Detector:
    """Like controlnet-aux's: bytes of whatever its network gives, in its own size."""

    def __init__(self, value: float) -> None:
        self.model = torch.nn.Linear(1, 4)
        self.model.bias.data = torch.tensor([value, 0.0, 0.0, 2.0])
        self.model.weight.data.zero_()

    def __call__(self, picture: np.ndarray[Any, Any], output_type: str) -> np.ndarray[Any, Any]:
        assert output_type == "np"
        depth = self.model(torch.zeros(1)).reshape(2, 2).numpy()
        return np.repeat((depth * 100)[..., None], 3, 2).clip(0, 255).astype(np.uint8)


def test_detector_output_is_read_before_quantisation() -> None:
    found = DetectorEstimator(Detector(1.0), lambda output: output).estimate(PICTURE)
    assert found.shape == PICTURE.shape[:2]
    assert (found[0, 0], found[0, -1], found[-1, -1]) == (128, 0, 255)
    with pytest.raises(NonFiniteError):
        DetectorEstimator(Detector(float("nan")), lambda output: output).estimate(PICTURE)
    flat = Detector(0.0)
    flat.model.bias.data.zero_()
    assert not DetectorEstimator(flat, lambda output: output).estimate(PICTURE).any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_detector_of_controlnet_aux(tmp_path: Path) -> None:
    """Its MiDaS at full size with random weights: the library has no smaller one."""
    pytest.importorskip("controlnet_aux", reason="TORCH=cpu goes without what needs torchvision")
    from controlnet_aux.midas.midas.dpt_depth import DPTDepthModel

    with torch.device("meta"):
        network = DPTDepthModel(path=None, backbone="vitb_rn50_384", non_negative=True)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: 0.03 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in network.state_dict().items()
    }
    save_file(weights, tmp_path / "detector.safetensors")
    estimator = load_estimator(spec(**DETECTOR, detector="midas"), tmp_path, DEVICE)
    loaded = estimator.network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    found = estimator.estimate(PICTURE[:128, :128])
    assert (found.dtype, found.shape) == (np.uint8, (128, 128))
    assert (found.min(), found.max()) == (0, 255)
