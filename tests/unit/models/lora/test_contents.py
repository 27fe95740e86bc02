"""Adapter files as trainers write them, matched with SDXL's layers by name and shape alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft.utils.other import get_pattern_key
from safetensors.numpy import save_file

from models.conversion.safetensors_io import WeightsError
from models.lora.contents import AdapterContents, read_contents
from models.lora.layer_table import sdxl_table

Q = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
K2 = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float16)


def lora(key: str, inputs: int, outputs: int, rank: int = 2) -> dict[str, Any]:
    return {
        f"{key}.lora_down.weight": zeros(rank, inputs),
        f"{key}.lora_up.weight": zeros(outputs, rank),
        f"{key}.alpha": np.array(1.0, np.float32),
    }


PLAIN = lora(Q, 640, 640)


def read(tmp_path: Path, state: dict[str, Any], metadata: Any = None) -> AdapterContents:
    path = tmp_path / "own.safetensors"
    save_file(state, path, metadata)
    return read_contents(path, sdxl_table())


def names(contents: AdapterContents) -> set[str]:
    return {layer.target.label for layer in contents.layers}


@pytest.mark.parametrize(("key", "inputs", "outputs", "layer"), [
    ("lora_unet_input_blocks_4_1_transformer_blocks_1_ff_net_2", 2560, 640,
     "down_blocks.1.attentions.0.transformer_blocks.1.ff.net.2"),
    ("lora_unet_middle_block_1_proj_in", 1280, 1280, "mid_block.attentions.0.proj_in"),
    ("lora_unet_time_embed_0", 320, 1280, "time_embedding.linear_1"),
    ("lora_unet_add_embedding_linear_1", 2816, 1280, "add_embedding.linear_1"),
    ("lora_unet_label_emb_0_2", 1280, 1280, "add_embedding.linear_2"),
    ("diffusion_model.output_blocks.0.1.transformer_blocks.9.attn2.to_out.0", 1280, 1280,
     "up_blocks.0.attentions.0.transformer_blocks.9.attn2.to_out.0"),
    ("model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v", 2048, 1280,
     "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"),
    ("lycoris_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj", 1280, 10240,
     "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"),
    ("lora_te1_text_model_encoder_layers_11_mlp_fc1", 768, 3072,
     "text_encoder.text_model.encoder.layers.11.mlp.fc1"),
    ("lora_te2_text_model_encoder_layers_31_self_attn_out_proj", 1280, 1280,
     "text_encoder_2.text_model.encoder.layers.31.self_attn.out_proj"),
    ("lora_te2_text_projection", 1280, 1280, "text_encoder_2.text_projection"),
    ("text_encoder.text_model.encoder.layers.0.self_attn.k_proj", 768, 768,
     "text_encoder.text_model.encoder.layers.0.self_attn.k_proj"),
    ("text_encoders.clip_g.transformer.text_model.encoder.layers.3.mlp.fc2", 5120, 1280,
     "text_encoder_2.text_model.encoder.layers.3.mlp.fc2"),
    ("clip_l.text_model.encoder.layers.3.mlp.fc2", 3072, 768,
     "text_encoder.text_model.encoder.layers.3.mlp.fc2"),
    ("base_model.model.mid_block.attentions.0.proj_out", 1280, 1280,
     "mid_block.attentions.0.proj_out"),
])  # fmt: skip
def test_layers_are_found_in_every_spelling(
    key: str, inputs: int, outputs: int, layer: str, tmp_path: Path
) -> None:
    contents = read(tmp_path, lora(key, inputs, outputs))
    assert names(contents) == {layer}
    assert contents.warning is None
    (found,) = contents.layers
    assert (found.family, found.rank) == ("lora", 2)
    assert set(found.tensors) == {"down", "up", "alpha"}


@pytest.mark.parametrize(("down", "up", "alpha"), [
    ("lora_A.weight", "lora_B.weight", "alpha"),
    ("lora_A", "lora_B", "alpha"),
    ("lora_A.default.weight", "lora_B.default.weight", "alpha"),
    ("lora_A.style_1.weight", "lora_B.style_1.weight", "lora_A.alpha"),
    ("lora.down.weight", "lora.up.weight", "lora.alpha"),
    ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight", "lora_linear_layer.alpha"),
])  # fmt: skip
def test_roles_in_every_spelling(down: str, up: str, alpha: str, tmp_path: Path) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    state = {
        f"{layer}.{down}": zeros(2, 1280), f"{layer}.{up}": zeros(1280, 2),
        f"{layer}.{alpha}": np.array(1, np.int64),
    }  # fmt: skip
    (found,) = read(tmp_path, state).layers
    assert set(found.tensors) == {"down", "up", "alpha"}


def test_older_attention_processors(tmp_path: Path) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor"
    state = {}
    for name in ("to_q", "to_out"):
        state[f"{layer}.{name}_lora.down.weight"] = zeros(2, 1280)
        state[f"{layer}.{name}_lora.up.weight"] = zeros(1280, 2)
    text = "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora"
    state |= {f"{text}.down.weight": zeros(2, 768), f"{text}.up.weight": zeros(768, 2)}
    contents = read(tmp_path, state)
    assert names(contents) == {
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "text_encoder.text_model.encoder.layers.0.self_attn.out_proj",
    }


def test_both_namings_in_one_file(tmp_path: Path) -> None:
    state = PLAIN | lora("lora_unet_input_blocks_4_1_proj_in", 640, 640)
    assert len(read(tmp_path, state).layers) == 2


@pytest.mark.parametrize(("more", "part", "reason"), [
    ({"bundle_emb.ema yasuhara.clip_l": zeros(2, 768)}, "bundle_emb.ema yasuhara", "an embedding"),
    ({"emphasis_scale": np.array(1.0)}, "emphasis_scale", "unknown"),
    (lora("lora_unet_no_such_layer", 4, 4), "lora_unet_no_such_layer", "no such layer"),
    ({"lora_te3_x.lora_down.weight": zeros(1, 1)}, "lora_te3_x", None),
    (lora("lora_unet_conv_in", 81, 320), "conv_in", "shape [320, 81] where [320, 36]"),
    ({f"{K2}.lora_down.weight": zeros(2, 2048)},
     "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", "up missing"),
    ({f"{K2}.oft_blocks": zeros(2, 4, 4)},
     "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", "OFT or BOFT is not applied"),
    ({f"{K2}.lora_down.weight": np.zeros((2, 2048), np.int32)},
     f"{K2}.lora_down.weight", "its dtype is I32"),
    (lora(Q.replace("down_blocks_1_attentions_0", "input_blocks_4_1"), 640, 640),
     f"{Q.replace('down_blocks_1_attentions_0', 'input_blocks_4_1')}.lora_up.weight",
     "two of them"),
    ({f"{K2}.set_weight": zeros(640, 2048)}, f"{K2}.set_weight", "not supported"),
    (lora(K2, 2048, 640, rank=0),
     "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", "an empty tensor"),
    (lora(K2, 2048, 640) | {f"{K2}.alpha": np.ones(2, np.float32)},
     "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", "its alpha has the shape [2]"),
    ({f"{K2}.diff_b": zeros(640)},
     "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", "the layer has no bias"),
])  # fmt: skip
def test_one_tensor_too_many_costs_no_more_than_itself(
    more: dict[str, Any], part: str, reason: str | None, tmp_path: Path
) -> None:
    if reason is None:
        with pytest.raises(WeightsError, match="T5 text encoder"):
            read(tmp_path, PLAIN | more)
        return
    contents = read(tmp_path, PLAIN | more)
    assert "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q" in names(contents)
    assert reason in contents.left_out[part]
    assert part in (contents.warning or "")


def test_a_long_list_of_parts_is_cut(tmp_path: Path) -> None:
    contents = read(tmp_path, PLAIN | {f"unknown_{n}": np.array(1.0) for n in range(20)})
    assert len(contents.left_out) == 20
    assert (contents.warning or "").endswith("and 15 more")


@pytest.mark.parametrize("suffix", ["", ".default"])
@pytest.mark.parametrize(("family", "tensors"), [
    ("loha", {"hada_w1_a": (640, 3), "hada_w1_b": (3, 640),
              "hada_w2_a": (640, 3), "hada_w2_b": (3, 640)}),
    ("lokr", {"lokr_w1": (4, 4), "lokr_w2": (160, 160)}),
])  # fmt: skip
def test_factors_may_have_the_name_of_the_adapter(
    suffix: str, family: str, tensors: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    layer = "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    state = {f"{layer}.{name}{suffix}": zeros(*shape) for name, shape in tensors.items()}
    contents = read(tmp_path, state)
    assert [found.family for found in contents.layers] == [family]
    assert contents.warning is None


SD15 = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(("state", "message"), [
    (PLAIN | lora(SD15, 768, 640), "a LoRA for Stable Diffusion 1.5"),
    ({f"{SD15}.lokr_w1": zeros(4, 4), f"{SD15}.lokr_w2": zeros(160, 192)},
     "a LoRA for Stable Diffusion 1.5"),
    ({f"{SD15}.diff": zeros(640, 768)}, "a LoRA for Stable Diffusion 1.5"),
    (lora(SD15, 1024, 640), "a LoRA for Stable Diffusion 2"),
    (lora("lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k", 1280, 1536), "refiner"),
    (lora(SD15, 160, 640), "text embeddings have 160 channels; this model's have 2048"),
    (lora("lora_unet_double_blocks_0_img_attn_qkv", 3072, 9216), "a LoRA for Flux"),
    (lora("transformer.single_transformer_blocks.0.attn.to_q", 3072, 3072), "a LoRA for Flux"),
    (lora("lora_unet_joint_blocks_0_x_block_attn_qkv", 1536, 4608), "Stable Diffusion 3"),
    (lora("diffusion_model.blocks.0.self_attn.q", 5120, 5120), "a LoRA for Wan"),
    (lora("lora_prior_unet_down_blocks_0_1", 8, 8), "Stable Cascade"),
    ({"model.diffusion_model.input_blocks.0.0.weight": zeros(320, 4, 3, 3),
      "first_stage_model.quant_conv.weight": zeros(8, 8, 1, 1)},
     "a checkpoint, not a LoRA: name it as the source of a models entry"),
    ({"model.diffusion_model.input_blocks.0.0.weight": zeros(320, 4, 3, 3)},
     "a UNet alone, not a LoRA: name it as unet of a models entry"),
    ({"controlnet_cond_embedding.conv_in.weight": zeros(16, 3, 3, 3)}, "a ControlNet"),
    ({"clip_l": zeros(4, 768), "clip_g": zeros(4, 1280)}, "a textual inversion"),
    ({"lllite_unet_input_blocks_4_1.down.0.weight": zeros(4, 4)}, "ControlNet-LLLite"),
    ({"lora_controlnet": zeros(0), "input_blocks.1.0.in_layers.2.up": zeros(4, 4)},
     "a control-LoRA"),
    ({"encoder.conv_in.weight": zeros(128, 3, 3, 3)}, "an autoencoder"),
    ({"something": zeros(4)}, "no LoRA"),
    ({f"{Q}.oft_blocks": zeros(2, 4, 4)}, "OFT or BOFT is not applied; LoRA"),
    ({f"{Q}.a1.weight": zeros(2, 4), f"{Q}.b1.weight": zeros(2, 4)}, "GLoRA is not applied"),
    ({f"{Q}.weight": zeros(640), f"{Q}.on_input": np.array(True)}, "IA3 is not applied"),
    (lora(Q, 320, 320), "none of its 3 tensors fits this model"),
])  # fmt: skip
def test_other_files_are_refused_by_what_they_are(
    state: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=re.escape(message)) as raised:
        read(tmp_path, state)
    assert str(raised.value).startswith("own.safetensors: ")
    assert str(tmp_path) not in str(raised.value)


def test_settings_of_every_network(tmp_path: Path) -> None:
    settings = {"unet.lora_alpha": 8, "text_encoder.lora_alpha": 2, "text_encoder.r": 4}
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    state = PLAIN | lora("lora_te1_text_model_encoder_layers_0_mlp_fc1", 768, 3072)
    found = read(tmp_path, state, metadata).settings
    assert found["unet"].scale("x", 4, None) == 2.0
    assert found["text_encoder"].scale("x", 4, None) == 0.5
    assert found["text_encoder_2"].scale("x", 4, None) == 1.0
    assert found["unet"].scale("x", 4, 1.0) == 0.25, "the layer's own alpha precedes"


@pytest.mark.parametrize(("pattern", "alpha"), [
    ("attn1.to_q", 8.0), ("to_q|to_k", 8.0), (r"attn\d\.to_(q|k)", 8.0), ("attn[12].to_q", 8.0),
    (".*attn1.*", 8.0), (r"^down_blocks\.1\..*to_q$", 8.0), ("to_(?:q|v)", 8.0), ("to_k", 2.0),
    ("o_q", 2.0), ("^attn1.to_q", 2.0),
])  # fmt: skip
def test_patterns_of_alpha_match_as_in_peft(pattern: str, alpha: float, tmp_path: Path) -> None:
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert (get_pattern_key([pattern], layer) == pattern) is (alpha == 8.0)
    settings = {"unet.lora_alpha": 2.0, "unet.alpha_pattern": {pattern: 8.0}}
    contents = read(tmp_path, PLAIN, {"lora_adapter_metadata": json.dumps(settings)})
    assert contents.settings["unet"].scale(layer, 1, None) == alpha
    assert contents.warning is None


@pytest.mark.parametrize("pattern", [
    "(?!.*attn2).*to_q", "(a+)+b", ".*.*.*to_q", "(", "[z-a]", r"to_q{1,3}", "((to_q))",
    "(a|a)" * 5,
])  # fmt: skip
def test_patterns_that_are_not_evaluated_are_named(pattern: str, tmp_path: Path) -> None:
    settings = {"unet.alpha_pattern": {pattern: 8.0}}
    contents = read(tmp_path, PLAIN, {"lora_adapter_metadata": json.dumps(settings)})
    assert contents.settings["unet"].scale("x.to_q", 4, None) == 1.0
    assert f"alpha_pattern {pattern} of unet" in (contents.warning or "")


def test_hostile_metadata_has_no_effect(tmp_path: Path) -> None:
    for text in ("[" * 10_000, '{"unet.alpha_pattern": {"(": 3, "x": NaN}}', "null", "{"):
        contents = read(tmp_path, PLAIN, {"lora_adapter_metadata": text})
        assert contents.settings["unet"].scale("x", 4, None) == 1.0
