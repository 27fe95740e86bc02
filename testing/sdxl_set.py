"""A set of networks with SDXL's shapes (arXiv:2307.01952) and random weights, to measure loading.

Weights are written tensor by tensor, so the 7 GB are never in memory at once. `small` has the same
layout with narrow networks, for tests in seconds.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.conversion.config import SDXL, canonicalize_config, write_config
from models.conversion.safetensors_io import Shape, TensorToWrite, write_file
from models.conversion.sdxl_key_map import PREFIXES, Config, key_mappings
from models.conversion.tensor_copy import SAFETENSORS_NAME, Dtype, cast

CHECKPOINT = "checkpoint.safetensors"
CONTROLNET = "controlnet"
TINY_DECODER = "tiny_decoder"
TOKENIZERS = ("tokenizer", "tokenizer_2")
_DEMO = Path(__file__).parent.parent / "models" / "demo" / "weights"
_POOL = 2**20

_TEXT = {
    "vocab_size": 1280, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
_SMALL: dict[str, dict[str, Any]] = {
    "text_encoder": {**_TEXT, "projection_dim": 64},
    "text_encoder_2": {**_TEXT, "hidden_size": 96, "hidden_act": "gelu", "projection_dim": 48},
    "unet": {
        "block_out_channels": [32, 64, 96],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 3],
        "attention_head_dim": [2, 4, 6],
        "cross_attention_dim": 64 + 96,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 48 + 6 * 8,
        "use_linear_projection": True,
        "norm_num_groups": 8,
        "sample_size": 32,
    },
    "vae": {
        "block_out_channels": [8, 16, 24, 24],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "norm_num_groups": 8,
        "sample_size": 64,
        "scaling_factor": 0.13025,
    },
}


def configurations(small: bool) -> dict[str, dict[str, Any]]:
    """Return the configuration of each part of a checkpoint."""
    if small:
        return {part: canonicalize_config(part, config) for part, config in _SMALL.items()}
    return {
        part: json.loads((SDXL / f"{part}.json").read_text(encoding="utf-8")) for part in PREFIXES
    }


def write_configurations(folder: Path, small: bool) -> Path:
    """Write the configurations as `<part>.json`; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, config in configurations(small).items():
        (folder / f"{part}.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_checkpoint(path: Path, small: bool, dtype: Dtype, seed: int = 0) -> None:
    """Write a single-file checkpoint with the original names; 6.9 GB unless small.

    Args:
        path: the safetensors file to write.
        small: narrow networks of the same layout.
        dtype: dtype of the weights.
        seed: seed of the random weights.
    """
    shapes: dict[str, Shape] = {}
    for part, config in configurations(small).items():
        for move in key_mappings(part, config):
            shapes.setdefault(move.source, move.source_shapes[0])
    _write(path, shapes, dtype, seed)


def write_unet(folder: Path, small: bool, dtype: Dtype, seed: int) -> None:
    """Write a UNet in diffusers' format: config.json and weights.

    Args:
        folder: the folder to create.
        small: narrow networks of the same layout.
        dtype: dtype of the weights.
        seed: seed of the random weights.
    """
    config = configurations(small)["unet"]
    folder.mkdir(parents=True)
    write_config(folder, config)
    shapes = {move.target: move.shape for move in key_mappings("unet", config)}
    _write(folder / "diffusion_pytorch_model.safetensors", shapes, dtype, seed)


def controlnet_config(small: bool) -> dict[str, Any]:
    """Return a ControlNet without attention, as small as the published small one (0.126 B)."""
    unet: Config = configurations(small)["unet"]
    shared = (
        "addition_embed_type", "addition_time_embed_dim", "attention_head_dim",
        "block_out_channels", "cross_attention_dim", "norm_num_groups",
        "projection_class_embeddings_input_dim", "use_linear_projection",
    )  # fmt: skip
    return canonicalize_config(
        "controlnet",
        {
            **{key: unet[key] for key in shared},
            "down_block_types": ["DownBlock2D"] * 3,
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": [1, 1, 1],
        },
    )


def write_controlnet(folder: Path, small: bool, dtype: Dtype, seed: int = 1) -> None:
    """Write the ControlNet of `controlnet_config`, with nonzero outputs so that it has an effect.

    Args:
        folder: the folder to create.
        small: narrow networks of the same layout.
        dtype: dtype of the weights.
        seed: seed of the random weights.
    """
    import torch
    from diffusers import ControlNetModel

    config = controlnet_config(small)
    with torch.device("meta"):
        network = ControlNetModel.from_config(config)
    folder.mkdir(parents=True)
    write_config(folder, config)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    _write(folder / "diffusion_pytorch_model.safetensors", shapes, dtype, seed)


def write_tiny_decoder(folder: Path, dtype: Dtype, seed: int = 3) -> None:
    """Write a decoder with TAESDXL's shapes, the defaults of diffusers' class.

    Args:
        folder: the folder to create.
        dtype: dtype of the weights.
        seed: seed of the random weights.
    """
    import torch
    from diffusers import AutoencoderTiny

    with torch.device("meta"):
        network = AutoencoderTiny()
    folder.mkdir(parents=True)
    # A class has tuples, a file lists.
    config = json.loads(json.dumps(dict(network.config)))
    write_config(folder, canonicalize_config("tiny_decoder", config))
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    _write(folder / "diffusion_pytorch_model.safetensors", shapes, dtype, seed)


def write_catalog(folder: Path, tiny_decoder: bool = False) -> Path:
    """Write a catalog of the set; return its path.

    Its variants are `first`, and `second` with its own UNet. Its sources in the folder are
    `checkpoint.safetensors`, `unet`, `controlnet`, `pipeline` and optionally `tiny_decoder`.
    """
    tiny = f'tiny_decoder = "file:{TINY_DECODER}"' if tiny_decoder else ""
    shared = f"""
source = "file:{CHECKPOINT}"
tokenizer = "file:pipeline/tokenizer"
tokenizer_2 = "file:pipeline/tokenizer_2"
licence = "random numbers"
native_size = 256
steps = 2
cfg = 1.0
scheduler = {{ class = "EulerDiscreteScheduler" }}
{tiny}
"""
    text = f"""
name = "load"
dtype = "bfloat16"
default_model = "first"
default_controlnet = "depth"
[models.first]{shared}
[models.second]{shared}unet = "file:unet"
[controlnets.depth]
source = "file:{CONTROLNET}"
licence = "random numbers"
"""
    path = folder / "load.toml"
    path.write_text(text, encoding="utf-8")
    return path


def write_pipeline_folder(folder: Path, small: bool) -> None:
    """Write configurations and tokenizers without weights: diffusers' additions to a checkpoint."""
    for part, config in configurations(small).items():
        (folder / part).mkdir(parents=True)
        write_config(folder / part, config)
    for name in TOKENIZERS:
        shutil.copytree(_DEMO / name, folder / name)
    shutil.copytree(_DEMO / "scheduler", folder / "scheduler")
    index = json.loads((_DEMO / "model_index.json").read_text(encoding="utf-8"))
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def _write(path: Path, shapes: dict[str, Shape], dtype: Dtype, seed: int) -> None:
    pool = np.random.default_rng(seed).standard_normal(_POOL, dtype=np.float32)
    stored = SAFETENSORS_NAME[dtype]
    scaled: dict[float, bytes] = {}
    tensors = {}
    for number, (name, shape) in enumerate(shapes.items()):
        size = 2 * math.prod(shape)
        if len(shape) == 1:
            # Norm scales are one and biases zero, so that deep random networks stay finite.
            value = 1.0 if name.endswith(".weight") else 0.0
            scale, start = value, 0
            scaled.setdefault(value, _cast(np.full(_POOL, value, np.float32), stored))
        else:
            scale = 2.0 ** -round(math.log2(math.prod(shape[1:])) / 2) / 1.01
            start = 2 * (number * 7919 % _POOL)
            if scale not in scaled:
                scaled[scale] = _cast(pool * np.float32(scale), stored)
        tensors[name] = TensorToWrite(stored, shape, partial(_tiles, scaled[scale], start, size))
    write_file(path, tensors)


def _cast(values: np.ndarray[Any, Any], stored: str) -> bytes:
    return bytes(cast(memoryview(values.tobytes()), "F32", stored))


def _tiles(pool: bytes, start: int, size: int) -> Iterator[memoryview]:
    """Yield `size` bytes of the pool from `start` on, cyclically."""
    view = memoryview(pool)
    while size:
        piece = view[start : start + size]
        yield piece
        size -= len(piece)
        start = 0
