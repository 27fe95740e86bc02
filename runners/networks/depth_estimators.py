"""Depth estimators: depth models of transformers and detectors of controlnet-aux.

All run in float32 on every device. One estimate costs less than a denoising step, and distances
exceed the range of float16.
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
from runners.device import CPU, Device
from runners.errors import LoadError, NonFiniteError
from runners.networks.weight_upload import WeightUploader

# Progress bars would become log lines.
transformers_logging.disable_progress_bar()

DepthArray = NDArray[np.uint8]
RgbArray = NDArray[np.uint8]

ESTIMATOR_KINDS = frozenset({"depth_estimator", "depth_detector"})
"""Component kinds that `load_estimator` loads."""

_LARGEST_SIDE = 640
"""Largest side in pixels of an image for GLPN.

GLPN's processor does not resize, and memory grows with the fourth power of the side."""

_UNUSED = "neck.fusion_stage.layers.0.residual_layer1."
"""Prefix of an unused DPT layer, which published weights omit."""


class Estimator(Protocol):
    """Depth estimator whose weights are in `network`."""

    network: nn.Module

    def estimate(self, picture: RgbArray) -> DepthArray:
        """Return the depth of an image.

        Args:
            picture: uint8 RGB [h, w, 3].

        Returns:
            uint8 [h, w], near = bright, stretched to 0 to 255.

        Raises:
            NonFiniteError: the network's output contains NaN or infinity.
        """


def load_estimator(
    spec: DepthEstimatorSpec, path: Path, device: Device, uploader: WeightUploader | None = None
) -> Estimator:
    """Load an estimator from local files only.

    Args:
        spec: the catalog entry.
        path: the folder of the estimator's component.
        device: the target device; the CPU replaces MPS.
        uploader: copier of weights to the device; a new one if None.

    Raises:
        LoadError: a required package is not installed.
        OSError: files are missing.
        ValueError: files are missing or do not match the network.
        RuntimeError: weights do not match the network.
    """
    if device.torch_device.type == "mps":
        # The MPS probe at startup does not cover these networks.
        device, uploader = CPU, None
    uploader = uploader or WeightUploader(device)
    if spec.loader == "controlnet_aux":
        (file,) = path.glob("*.safetensors")
        return _load_detector(str(spec.detector), file, uploader)
    return TransformersEstimator(path, device, spec.gives == "distance", uploader)


class TransformersEstimator:
    """Depth model of transformers with its image processor.

    Args:
        path: folder with config.json, model.safetensors and optionally preprocessor_config.json.
        device: the target device.
        is_distance: whether large output values are far instead of near.
        uploader: copier of weights to the device; a new one if None.

    Raises:
        LoadError: the model needs torchvision, which is not installed.
        ValueError: weights are missing or have the wrong shape.
    """

    def __init__(
        self,
        path: Path,
        device: Device,
        is_distance: bool,
        uploader: WeightUploader | None = None,
    ) -> None:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        network, loading_info = AutoModelForDepthEstimation.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        missing = [name for name in loading_info["missing_keys"] if not name.startswith(_UNUSED)]
        if missing or loading_info["mismatched_keys"]:
            # transformers would initialize missing weights randomly.
            raise ValueError(f"{len(missing)} weights are missing, such as {sorted(missing)[:1]}")
        (uploader or WeightUploader(device)).move(network)
        self.network = network.eval().requires_grad_(False)
        self._processor = _load_processor(path, config)
        self._device = device.torch_device
        self._is_distance = is_distance
        self._takes_any_size = type(self._processor).__name__.startswith("GLPN")

    @torch.inference_mode()
    def estimate(self, picture: RgbArray) -> DepthArray:
        """Return the depth of an image; see `Estimator.estimate`."""
        image = Image.fromarray(picture)
        if self._takes_any_size:
            image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
        inputs = self._processor(images=image, return_tensors="pt")
        outputs = self.network(**inputs.to(self._device))
        # ZoeDepth expects the sizes before padding, all others the target sizes.
        sizes = [picture.shape[:2]]
        (processed,) = self._processor.post_process_depth_estimation(outputs, sizes)
        depth = processed["predicted_depth"].float().cpu().numpy()
        return _to_depth_array(-depth if self._is_distance else depth)


class DetectorEstimator:
    """Detector of controlnet-aux, whose depth maps are already near = bright."""

    def __init__(self, detector: Any, read: Callable[[Any], torch.Tensor]) -> None:
        self.network = detector.model
        self._detector = detector
        self._raw: NDArray[np.float32] | None = None

        def capture_output(module: nn.Module, inputs: Any, output: Any) -> None:
            self._raw = read(output).float().cpu().numpy()

        # The detector converts NaN and infinity to bytes, so the hook captures the raw output.
        self.network.register_forward_hook(capture_output)

    @torch.inference_mode()
    def estimate(self, picture: RgbArray) -> DepthArray:
        """Return the depth of an image; see `Estimator.estimate`."""
        with np.errstate(all="ignore"):
            detected = self._detector(picture, output_type="np")
        raw, self._raw = self._raw, None
        assert raw is not None
        if not np.isfinite(raw).all():
            raise NonFiniteError("the estimated depth contains NaN or infinity")
        if raw.min() == raw.max():
            return np.zeros(picture.shape[:2], np.uint8)
        height, width = picture.shape[:2]
        grey = Image.fromarray(detected[..., 0]).resize((width, height), Image.Resampling.BILINEAR)
        return _to_depth_array(np.asarray(grey, np.float32))


def _load_processor(path: Path, config: Any) -> Any:
    """Return the model's image processor, with the published settings if there are any.

    The processor uses Pillow, so depth maps do not depend on an installed torchvision. Depth Pro
    has only a processor that requires torchvision.

    Raises:
        LoadError: torchvision is required but not installed.
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


def _load_detector(name: str, file: Path, uploader: WeightUploader) -> DetectorEstimator:
    """Load a detector of controlnet-aux.

    Raises:
        LoadError: controlnet-aux is not installed.
    """
    # A lazy import, because it takes ten seconds and only these estimators need it.
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
        _load_weights(network, file, uploader)
        return DetectorEstimator(MidasDetector(network), lambda output: output)
    network = ZoeDepth.build_from_config(get_config("zoedepth", "infer"))
    _load_weights(network, file, uploader)
    return DetectorEstimator(ZoeDetector(network), lambda output: output["metric_depth"])


def _load_weights(network: nn.Module, file: Path, uploader: WeightUploader) -> None:
    network.load_state_dict(load_file(file))
    uploader.move(network.float())
    network.eval().requires_grad_(False)


def _to_depth_array(nearness: NDArray[np.float32]) -> DepthArray:
    """Stretch values to 0 to 255; a constant map becomes all 0.

    Raises:
        NonFiniteError: the values contain NaN or infinity.
    """
    if not np.isfinite(nearness).all():
        raise NonFiniteError("the estimated depth contains NaN or infinity")
    low, high = float(nearness.min()), float(nearness.max())
    if low == high:
        return np.zeros(nearness.shape, np.uint8)
    return np.rint((nearness - low) * (255.0 / (high - low))).astype(np.uint8)
