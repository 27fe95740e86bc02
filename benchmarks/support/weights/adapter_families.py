"""Families of adapters, each with its authors' formula."""

from __future__ import annotations

from benchmarks.support.weights.adapters import MakeCase, adapter_kind
from benchmarks.support.weights.kind import Kind
from testing.weight_files import families
from testing.weight_files.adapter_case import (
    CONVOLUTIONS,
    KERNELS,
    LINEAR,
    NORMS,
    TEXT_LINEAR,
    TEXT_NORMS,
    TEXT_PARTS,
    AdapterFileCase,
    Write,
    make_case,
)
from testing.weight_files.networks import Networks

_EVERYTHING = (*LINEAR, *CONVOLUTIONS)
_POINTWISE = ("conv_shortcut",)
_OUTSIDE = ("add_embedding.linear_1", "add_embedding.linear_2", "time_embedding.linear_1",
            "time_embedding.linear_2", "time_emb_proj", "conv_out")  # fmt: skip
_UNET: dict[str, tuple[Write, tuple[str, ...]]] = {
    "LoRA": (families.write_lora, LINEAR),
    "LoRA outside the blocks": (families.write_lora, _OUTSIDE),
    "LoCon": (families.write_lora, CONVOLUTIONS),
    "LoCon of 1x1": (families.write_lora, _POINTWISE),
    "LoCon, Tucker": (families.write_tucker, KERNELS),
    "LoHa": (families.write_loha, LINEAR),
    "LoHa of convolutions": (families.write_loha, CONVOLUTIONS),
    "LoHa, Tucker": (families.write_loha_tucker, KERNELS),
    "LoKr, whole": (families.write_lokr, LINEAR),
    "LoKr, whole, convolutions": (families.write_lokr, KERNELS),
    "LoKr, factored": (families.write_lokr_factored, LINEAR),
    "LoKr, factored, convolutions": (families.write_lokr_factored, KERNELS),
    "LoKr, both factored": (families.write_lokr_both, LINEAR),
    "LoKr, Tucker": (families.write_lokr_tucker, KERNELS),
    "full diff and diff_b": (families.write_difference, _EVERYTHING),
    "w_norm and b_norm": (families.write_norm, NORMS),
    "bias of lora_B": (families.write_up_bias, LINEAR),
    "DoRA per output": (families.dora(families.write_lora, True), LINEAR),
    "DoRA per input": (families.dora(families.write_lora, False), LINEAR),
    "DoRA, peft's vector": (families.dora(families.write_lora, True, peft=True), LINEAR),
    "DoRA of convolutions per output": (families.dora(families.write_lora, True), KERNELS),
    "DoRA of convolutions per input": (families.dora(families.write_lora, False), KERNELS),
    "DoRA of Tucker": (families.dora(families.write_tucker, True), KERNELS),
    "DoRA on LoHa": (families.dora(families.write_loha, True), LINEAR),
    "DoRA on LoKr": (families.dora(families.write_lokr, False), LINEAR),
    "DoRA on full diff": (families.dora(families.write_difference, True), ("to_q", "to_k")),
}
_TEXT: dict[str, tuple[Write, tuple[str, ...]]] = {
    "LoRA": (families.write_lora, TEXT_LINEAR),
    "LoHa": (families.write_loha, TEXT_LINEAR),
    "LoKr, whole": (families.write_lokr, TEXT_LINEAR),
    "LoKr, factored": (families.write_lokr_factored, TEXT_LINEAR),
    "full diff and diff_b": (families.write_difference, TEXT_LINEAR),
    "norms": (families.write_norm, TEXT_NORMS),
    "DoRA per output": (families.dora(families.write_lora, True), TEXT_LINEAR),
    "DoRA on LoHa": (families.dora(families.write_loha, False), TEXT_LINEAR),
}


def unet_case(write: Write, layers: tuple[str, ...] = LINEAR) -> MakeCase:
    """Return the function that makes a file of one family for the UNet."""
    return lambda networks: make_case(networks.unet, write, layers)


def text_case(write: Write, layers: tuple[str, ...] = TEXT_LINEAR) -> MakeCase:
    """Return the function that makes a file of one family for both text encoders."""

    def make(networks: Networks) -> AdapterFileCase:
        first, second = (
            make_case(encoder, write, layers, part)
            for part, encoder in zip(TEXT_PARTS, networks.text_encoders, strict=True)
        )
        return first.joined(second)

    return make


def all_networks(networks: Networks) -> AdapterFileCase:
    """Return a LoRA of the UNet, both text encoders and the second's projection."""
    projection = make_case(
        networks.text_encoder_2, families.write_lora, ("text_projection",), TEXT_PARTS[1]
    )
    return unet_case(families.write_lora)(networks).joined(
        text_case(families.write_lora)(networks), projection
    )


def mixed_families(networks: Networks) -> AdapterFileCase:
    """Return a file as LyCORIS' presets write it: another family for every kind of layer."""
    chosen = (
        (families.write_loha, ("to_q", "to_k")), (families.write_lokr_factored, ("ff.net.2",)),
        (families.write_lora, CONVOLUTIONS), (families.write_norm, NORMS),
        (families.write_difference, ("time_embedding.linear_1",)),
    )  # fmt: skip
    first, *others = (make_case(networks.unet, write, layers) for write, layers in chosen)
    return first.joined(*others)


def unet_kinds() -> list[Kind]:
    """Return the families on the UNet."""
    found = [adapter_kind(name, unet_case(*chosen)) for name, chosen in _UNET.items()]
    return [*found, adapter_kind("several families in one file", mixed_families)]


def text_kinds() -> list[Kind]:
    """Return the families on the text encoders."""
    found = [adapter_kind(name, text_case(*chosen)) for name, chosen in _TEXT.items()]
    return [*found, adapter_kind("LoRA of all networks", all_networks)]
