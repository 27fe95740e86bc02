"""Recognition of weight files by the names and shapes of their tensors.

One table serves the import of every kind of entry and `python -m models inspect`. Names are those
of the files' own libraries, as ComfyUI and diffusers recognise them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from models.conversion.safetensors_io import TensorEntry

Place = Literal[
    "models", "loras", "controlnets", "depth_estimators",
    "unet", "vae", "text_encoder", "text_encoder_2", "tiny_decoder",
]  # fmt: skip
"""Section of a catalog whose source a file can be, or key of a `models` entry."""

CHECKPOINT = "a checkpoint"
"""Name of a file with the networks of SDXL, of any size."""

_SECTIONS = frozenset({"models", "loras", "controlnets"})
_DEPTH_ADVICE = "name its folder, with config.json, as the source of a depth_estimators entry"
_TINY_ADVICE = (
    "name a folder with config.json, such as hf://madebyollin/taesdxl, as tiny_decoder of a "
    "models entry"
)


@dataclass(frozen=True, slots=True)
class FileKind:
    """Kind of a weight file: a noun phrase, and where in a catalog it belongs.

    `place` is None for a file that the service does not apply.
    """

    name: str
    place: Place | None = None

    @property
    def advice(self) -> str | None:
        """What to do with the file, None if the service does not apply it."""
        if self.place is None:
            return None
        if self.place == "depth_estimators":
            return _DEPTH_ADVICE
        if self.place == "tiny_decoder":
            return _TINY_ADVICE
        if self.place in _SECTIONS:
            return f"name it as the source of a {self.place} entry"
        return f"name it as {self.place} of a models entry"

    def describe(self, wanted: str) -> str:
        """Return what the file is where another kind is expected, and what to do.

        Args:
            wanted: the expected kind, with its article.
        """
        if self.advice is None:
            return f"{self.name}, which this service does not apply"
        return f"{self.name}, not {wanted}: {self.advice}"


_CONTROL = (
    r"controlnet|(^|\.)control_|input_hint_block|^pos_embed_input\.|^(before_proj|after_proj)"
)
# The first match wins, so files that contain the names of others precede them. The second column is
# a name that the file must have too, or "".
_RULES: tuple[tuple[str, str, str, Place | None], ...] = (
    (r"^lora_controlnet$", "", "a control-LoRA", None),
    (r"lllite_", "", "a ControlNet-LLLite", None),
    (r"(^|\.)ip_adapter\.|^image_proj\.", "", "an IP-Adapter", None),
    (r"^(model\.1\.sub|body\.\d+\.rdb\d|conv_first)\.", "", "an upscaler", None),
    (r"^(adapter\.)?body\.\d+\.", "", "a T2I-Adapter", None),
    (r"^style_embedding$", "", "a T2I style adapter", None),
    (r"base_to_c(on)?tro?l|c(on)?tro?l_to_base|enc_zero_convs", "", "a ControlNet-XS", None),
    (r"(^|[._])(lora_(down|up|A|B|unet|te\d?)|lycoris|hada_w1|lokr_w1|oft_blocks|oft_diag)",
     "", "a LoRA", "loras"),
    (r"\.lora(_linear_layer)?\.(down|up)\.|_lora\.(down|up)\.", "", "a LoRA", "loras"),
    (r"(^|\.)(motion_modules|temporal_transformer)\.", "",
     "a SparseCtrl ControlNet or a motion module for AnimateDiff", None),
    (r"^difference$", "", "the difference between a ControlNet and another model", None),
    (r"(^|\.)control_(img_in|blocks)\.|\.img_mlp\.net", _CONTROL,
     "a ControlNet for Qwen-Image", None),
    (r"(^|\.)(double_blocks|single_transformer_blocks|controlnet_single_blocks)\.\d+\.", _CONTROL,
     "a ControlNet for Flux", None),
    (r"^controlnet_(x_embedder|mode_embedder)\.", "", "a ControlNet for Flux", None),
    (r"^pos_embed_input\.", "", "a ControlNet for Stable Diffusion 3", None),
    (r"(^|\.)joint_blocks\.\d+\.", _CONTROL, "a ControlNet for Stable Diffusion 3", None),
    (r"^(after_proj_list|before_proj|controlnet_blocks)\.", "",
     "a ControlNet for a transformer, such as Hunyuan-DiT", None),
    (r"^control_(all_x_embedder|layers|noise_refiner)\.", "", "a ControlNet for Z-Image", None),
    (r"^backbone\.\d+\.", "", "a ControlNet for Stable Cascade", None),
    (r"^encoder_hid_proj\.", _CONTROL, "a ControlNet for Kolors", None),
    (r"^encoder_hid_proj\.", "", "a UNet for Kolors", None),
    (r"^control_model\.|controlnet_cond_embedding|input_hint_block|^controlnet_", "",
     "a ControlNet", "controlnets"),
    (r"string_to_param|^(emb_params|clip_[gl])$", "", "a textual inversion", None),
    (r"(^|\.)distilled_guidance_layer\.", "", "a Chroma checkpoint", None),
    (r"(^|\.)txt_in\.individual_token_refiner\.", "", "a Hunyuan Video checkpoint", None),
    (r"(^|\.)transformer_blocks\.\d+\.img_mod\.", "", "a Qwen-Image checkpoint", None),
    (r"(^|\.)(double_blocks\.\d+\.img_attn|single_transformer_blocks\.\d+)\.", "",
     "a Flux checkpoint", None),
    (r"(^|\.)joint_blocks\.\d+\.|(^|\.)transformer_blocks\.\d+\.attn\.add_k_proj\.", "",
     "a Stable Diffusion 3 checkpoint", None),
    (r"(^|\.)blocks\.\d+\.cross_attn\.", "", "a Wan checkpoint", None),
    (r"(^|\.)(context_refiner|noise_refiner)\.\d+\.", "", "a Lumina or Z-Image checkpoint", None),
    (r"(^|\.)(adaln_single|t_block)\.", "", "a PixArt or LTX-Video checkpoint", None),
    (r"(^|\.)clip(_txt)?_mapper\.", "", "a Stable Cascade checkpoint", None),
    (r"(^|\.)cond_seq_linear\.", "", "an AuraFlow checkpoint", None),
    (r"(^|\.)mlp_t5\.\d+\.", "", "a Hunyuan-DiT checkpoint", None),
    (r"^cond_stage_model\.model\.", "", "a Stable Diffusion 2 checkpoint", None),
    (r"^cond_stage_model\.", "", "a Stable Diffusion 1 checkpoint", None),
    (r"^conditioner\.embedders\.0\.model\.", "", "an SDXL refiner checkpoint", None),
    (r"^encoder\.block\.\d+\.layer\.|(^|\.)t5xxl\.|^shared\.weight$", "",
     "a T5 text encoder", None),
    (r"^(vision_model|visual_projection|visual)\.", "", "a CLIP vision encoder", None),
    (r"^neck\.(reassemble_stage|fusion_stage)\.", "", "a depth estimator", "depth_estimators"),
    (r"^model\.diffusion_model\.", r"^(first_stage_model|conditioner)\.", CHECKPOINT, "models"),
    (r"^conditioner\.", "", CHECKPOINT, "models"),
    (r"^(unet\.)?(down_blocks|up_blocks|mid_block)\.", "", "a UNet alone", "unet"),
    (r"^((model\.)?diffusion_model\.)?(input_blocks|output_blocks|middle_block)\.", "",
     "a UNet alone", "unet"),
    (r"^model\.diffusion_model\.", "", "a UNet alone", "unet"),
    (r"^(vae\.|first_stage_model\.)?(encoder|decoder)\.(mid|conv_in|down|up)", "",
     "an autoencoder alone", "vae"),
    (r"^(taesd_|vae\.)?(encoder|decoder)\.(layers\.)?\d+\.(weight|bias|conv)|^\d+\.conv\.\d+\.", "",
     "a tiny decoder", "tiny_decoder"),
    (r"(^|\.)(clip_g|text_encoder_2)\.|(^|\.)transformer\.resblocks\.", "",
     "a text encoder alone", "text_encoder_2"),
    (r"(^|\.)text_model\.|^(embeddings\.token_embedding|encoder\.layers\.\d+)\.", "",
     "a text encoder alone", "text_encoder"),
)  # fmt: skip
_COMPILED = tuple(
    (re.compile(pattern), re.compile(other), FileKind(name, place))
    for pattern, other, name, place in _RULES
)

_TEXT_WIDTHS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 1280: "the SDXL refiner"}
_UNET_INPUTS = {
    8: "an editing model (its UNet takes 8 channels)",
    9: "an inpainting model (its UNet takes 9 channels)",
}
_LATENT_CHANNELS = 4
_FIRST_LAYER = re.compile(
    r"((model\.)?diffusion_model\.)?input_blocks\.0\.0\.weight|(unet\.)?conv_in\.weight"
)
_TEXT_LAYER = re.compile(r".*attn2\.to_k\.weight")
_LATENT_LAYER = re.compile(r"(vae\.|first_stage_model\.)?decoder\.conv_in\.weight")
_TOKEN_LAYER = re.compile(r"(.*\.)?token_embedding\.weight")
_TOKEN_WIDTHS = {768: "text_encoder", 1280: "text_encoder_2"}


def detect_kind(header: Mapping[str, TensorEntry]) -> FileKind | None:
    """Return the kind of a weight file, None if it is unknown.

    Args:
        header: its tensors by name.
    """
    names = list(header)
    for pattern, other, kind in _COMPILED:
        if any(map(pattern.search, names)) and any(map(other.search, names)):
            return _refine(kind, header)
    return None


def _refine(kind: FileKind, header: Mapping[str, TensorEntry]) -> FileKind:
    """Return the kind of a part of a model, or another one if the shapes are another model's."""
    if kind.place in {"models", "unet"}:
        channels = _width(header, _FIRST_LAYER, 4)
        if channels in _UNET_INPUTS:
            return FileKind(_UNET_INPUTS[channels])
        model = model_of_text_width(_width(header, _TEXT_LAYER, 2))
        if model is not None and kind.place == "unet":
            return FileKind(f"a UNet for {model}")
    if kind.place == "vae":
        entry = _find(header, _LATENT_LAYER)
        if entry is not None and len(entry.shape) > 1 and entry.shape[1] != _LATENT_CHANNELS:
            return FileKind(f"an autoencoder of another model, with {entry.shape[1]} channels")
    if kind.place in {"text_encoder", "text_encoder_2"}:
        width = _width(header, _TOKEN_LAYER, 2)
        if width in _TOKEN_WIDTHS:
            return FileKind(kind.name, _TOKEN_WIDTHS[width])  # type: ignore[arg-type]
        if width in _TEXT_WIDTHS:
            return FileKind(f"a text encoder for {_TEXT_WIDTHS[width]}")
    return kind


def model_of_text_width(width: int | None) -> str | None:
    """Return the model that reads text embeddings of that many channels, None if unknown."""
    return None if width is None else _TEXT_WIDTHS.get(width)


def detect_non_sdxl(header: Mapping[str, TensorEntry]) -> str | None:
    """Return what a file is if it is no SDXL checkpoint, or None if it may be one.

    An SDXL checkpoint without some of its parts is not another kind.
    """
    kind = detect_kind(header)
    if kind is None or kind.place == "models":
        return None
    return kind.name if kind.advice is None else f"{kind.name}: {kind.advice}"


def detect_non_controlnet(header: Mapping[str, TensorEntry]) -> str | None:
    """Return what a file is if it is no ControlNet for SDXL's UNet, or None if it may be one.

    Stable Diffusion's other ControlNets have the same names; their shapes tell them apart.
    """
    kind = detect_kind(header)
    if kind is None or kind.place == "controlnets":
        return None
    return kind.describe("a ControlNet")


def _find(header: Mapping[str, TensorEntry], pattern: re.Pattern[str]) -> TensorEntry | None:
    return next((entry for name, entry in header.items() if pattern.fullmatch(name)), None)


def _width(
    header: Mapping[str, TensorEntry], pattern: re.Pattern[str], dimensions: int
) -> int | None:
    """Return the second dimension of the first tensor with such a name and as many dimensions."""
    entry = _find(header, pattern)
    return entry.shape[1] if entry is not None and len(entry.shape) == dimensions else None
