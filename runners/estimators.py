"""Depth estimators in memory: transformers' depth models, and controlnet-aux's detectors.

They compute in float32 on every device: one photograph costs less than a step of a picture, and
distances leave the range of float16.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name
from transformers.utils import logging as transformers_logging

from models.catalog import DepthEstimatorSpec
from runners.decode import NotFiniteError
from runners.device import CPU, Device
from runners.failure import LoadError

# Its bars would be lines of the log.
transformers_logging.disable_progress_bar()

Map = NDArray[np.uint8]
Picture = NDArray[np.uint8]

ESTIMATOR_KINDS = frozenset({"depth_estimator", "depth_detector"})
"""The kinds of component that `load_estimator` loads."""

_LARGEST_SIDE = 640
"""Of a picture for GLPN, whose own processor leaves its size alone: memory grows with the fourth
power of it."""

_UNUSED = "neck.fusion_stage.layers.0.residual_layer1."
"""A layer of DPT's that nothing reaches, which publishers therefore leave out."""


class Estimator(Protocol):
    """A network that tells depth; `network` holds its weights."""

    network: nn.Module

    def estimate(self, picture: Picture) -> Map:
        """Depth of a picture, uint8 [h, w, 3], as uint8 [h, w]: near = bright, from 0 to 255.

        Raises:
            NotFiniteError: the network gave what is no number.
        """


def load_estimator(spec: DepthEstimatorSpec, path: Path, device: Device) -> Estimator:
    """Load an estimator from its component's folder; nothing is fetched from anywhere.

    Raises:
        LoadError: the library that it needs is not installed.
        OSError, ValueError, RuntimeError: files that are not there, or do not fit.
    """
    if device.torch_device.type == "mps":
        # The start's probe says nothing of these networks.
        device = CPU
    if spec.loader == "controlnet_aux":
        (file,) = path.glob("*.safetensors")
        return _detector(str(spec.detector), file, device)
    return TransformersEstimator(path, device, is_distance=spec.gives == "distance")


class TransformersEstimator:
    """One of transformers' depth models with its own picture processor.

    Args:
        path: config.json, model.safetensors, and perhaps preprocessor_config.json.
        device: where to.
        is_distance: whether large numbers are far, and not near.
    """

    def __init__(self, path: Path, device: Device, is_distance: bool) -> None:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        network, told = AutoModelForDepthEstimation.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        absent = [name for name in told["missing_keys"] if not name.startswith(_UNUSED)]
        if absent or told["mismatched_keys"]:
            # transformers would go on with random numbers.
            raise ValueError(f"{len(absent)} weights are missing, such as {sorted(absent)[:1]}")
        self.network = network.to(device.torch_device).eval().requires_grad_(False)
        self._processor = _processor(path, config)
        self._device = device.torch_device
        self._is_distance = is_distance
        self._takes_any_size = type(self._processor).__name__.startswith("GLPN")

    @torch.inference_mode()
    def estimate(self, picture: Picture) -> Map:
        """See Estimator."""
        image = Image.fromarray(picture)
        if self._takes_any_size:
            image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
        inputs = self._processor(images=image, return_tensors="pt")
        outputs = self.network(**inputs.to(self._device))
        # Of ZoeDepth these are the sizes before its padding, of the others those to resize to.
        sizes = [picture.shape[:2]]
        (made,) = self._processor.post_process_depth_estimation(outputs, sizes)
        depth = made["predicted_depth"].float().cpu().numpy()
        return _as_map(-depth if self._is_distance else depth)


class DetectorEstimator:
    """One of controlnet-aux's detectors, whose maps have near = bright already."""

    def __init__(self, detector: Any, read: Callable[[Any], torch.Tensor]) -> None:
        self.network = detector.model
        self._detector = detector
        self._raw: NDArray[np.float32] | None = None

        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            self._raw = read(output).float().cpu().numpy()

        # The detector makes bytes of whatever the network gives.
        self.network.register_forward_hook(look)

    @torch.inference_mode()
    def estimate(self, picture: Picture) -> Map:
        """See Estimator."""
        with np.errstate(all="ignore"):
            found = self._detector(picture, output_type="np")
        raw, self._raw = self._raw, None
        assert raw is not None
        if not np.isfinite(raw).all():
            raise NotFiniteError("the estimated depth is no number")
        if raw.min() == raw.max():
            return np.zeros(picture.shape[:2], np.uint8)
        height, width = picture.shape[:2]
        grey = Image.fromarray(found[..., 0]).resize((width, height), Image.Resampling.BILINEAR)
        return _as_map(np.asarray(grey, np.float32))


def _processor(path: Path, config: Any) -> Any:
    """Return the model's processor, with the settings that came with the weights, if any did.

    It is the one that computes with Pillow, so that a depth map does not depend on whether
    torchvision is installed. Depth Pro has only one that needs it.

    Raises:
        LoadError: torchvision is needed, and not installed.
    """
    needs_torchvision = config.model_type == "depth_pro"
    if needs_torchvision and find_spec("torchvision") is None:
        raise LoadError("depth_estimator: depth_pro needs the package torchvision")
    if (path / "preprocessor_config.json").is_file():
        backend = "torchvision" if needs_torchvision else "pil"
        return AutoImageProcessor.from_pretrained(path, local_files_only=True, backend=backend)
    kinds = {"depth_anything": "DPT", "depth_pro": "DepthPro", "dpt": "DPT", "glpn": "GLPN"}
    kind = kinds.get(config.model_type, "ZoeDepth")
    suffix = "" if needs_torchvision else "Pil"
    return get_image_processor_class_from_name(f"{kind}ImageProcessor{suffix}")()


def _detector(name: str, file: Path, device: Device) -> DetectorEstimator:
    # Imported here: it takes ten seconds, and only who names such an estimator needs it.
    try:
        from controlnet_aux import MidasDetector, ZoeDetector
        from controlnet_aux.midas.midas.dpt_depth import DPTDepthModel
        from controlnet_aux.zoe.zoedepth.models.zoedepth.zoedepth_v1 import ZoeDepth
        from controlnet_aux.zoe.zoedepth.utils.config import get_config
    except ImportError as error:
        raise LoadError(
            f"depth_estimator: detector {name} needs the package controlnet-aux, which is not "
            "installed"
        ) from error
    if name == "midas":
        network = DPTDepthModel(path=None, backbone="vitb_rn50_384", non_negative=True)
        _fill(network, file, device)
        return DetectorEstimator(MidasDetector(network), lambda output: output)
    network = ZoeDepth.build_from_config(get_config("zoedepth", "infer"))
    _fill(network, file, device)
    return DetectorEstimator(ZoeDetector(network), lambda output: output["metric_depth"])


def _fill(network: nn.Module, file: Path, device: Device) -> None:
    network.load_state_dict(load_file(file))
    network.float().to(device.torch_device).eval().requires_grad_(False)


def _as_map(nearness: NDArray[np.float32]) -> Map:
    """Stretched over the whole range; what is the same everywhere is all 0."""
    if not np.isfinite(nearness).all():
        raise NotFiniteError("the estimated depth is no number")
    low, high = float(nearness.min()), float(nearness.max())
    if low == high:
        return np.zeros(nearness.shape, np.uint8)
    return np.rint((nearness - low) * (255.0 / (high - low))).astype(np.uint8)
