"""ControlNets from folders and single files, with all spellings of names, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from safetensors.torch import load_file, save_file

from models.conversion.component import weight_name
from models.conversion.config import SDXL
from models.conversion.controlnet import convert_controlnet
from models.conversion.controlnet_key_map import controlnet_shapes, to_diffusers_names
from models.conversion.safetensors_io import WeightsError
from runners.networks.loading import load_component
from testing.weight_files.controlnets import (
    KINDS,
    PUBLISHED,
    UNET,
    ldm_tensors,
    network,
    residuals,
    settings,
    write_file,
    write_folder,
)
from testing.workbench import DEVICE

PLAIN = ("full", "mid", "flat", "bare", "small")
UNETS = {"model base": UNET}


def convert(*files: Path, unets: Any = UNETS) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The configuration and the tensors that the store gets."""
    target = files[0].parent / "converted"
    convert_controlnet(list(files), target, None, unets)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    return config, load_file(target / weight_name("controlnet"))


def refuse(*files: Path, unets: Any = UNETS) -> str:
    """The reason of a refusal."""
    with pytest.raises(WeightsError) as caught:
        convert(*files, unets=unets)
    return str(caught.value)


@pytest.mark.parametrize("unet", [UNET, PUBLISHED], ids=["small", "published"])
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_those_of_diffusers_network(kind: str, unet: dict[str, Any]) -> None:
    made = network(kind, unet)
    shapes = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    assert controlnet_shapes({**made.config}) == shapes


@pytest.mark.parametrize("kind", PLAIN)
def test_names_of_the_training_code_are_translated_as_diffusers_does(kind: str) -> None:
    made = network(kind)
    original = ldm_tensors(made)
    expected = convert_controlnet_checkpoint(dict(original), dict(made.config))
    names = to_diffusers_names(original)
    ours = {names[name]: tensor for name, tensor in original.items()}
    # diffusers' converter is for Stable Diffusion 1.5, which has no embedding of sizes.
    assert set(ours) - set(expected) == {
        f"add_embedding.linear_{number}.{what}" for number in (1, 2) for what in ("weight", "bias")
    }
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("prefix", "file"),
    [
        ("", "diffusion_pytorch_model.fp16.safetensors"),
        ("controlnet.", "Depth.SAFETENSORS"),
        ("", "depth.sft"),
    ],
)
def test_a_single_file_gives_the_configuration_of_its_folder(
    tmp_path: Path, kind: str, prefix: str, file: str
) -> None:
    made = network(kind)
    folder = write_folder(tmp_path / "folder", made)
    expected, tensors = convert(*sorted(folder.iterdir()))
    config, own = convert(write_file(tmp_path / "file" / file, made.state_dict(), prefix))
    assert config == expected
    assert set(own) == set(tensors) == set(made.state_dict())
    assert all(torch.equal(own[name], made.state_dict()[name]) for name in own)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("prefix", ["", "control_model."])
def test_a_file_with_the_names_of_the_training_code_is_the_same_network(
    tmp_path: Path, kind: str, prefix: str
) -> None:
    made = network(kind)
    expected, _ = convert(*sorted(write_folder(tmp_path / "folder", made).iterdir()))
    config, own = convert(write_file(tmp_path / "x.safetensors", ldm_tensors(made), prefix))
    assert config == expected
    assert all(torch.equal(own[name], tensor) for name, tensor in made.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_stored_network_is_loaded_and_equals_diffusers(tmp_path: Path, kind: str) -> None:
    made = network(kind)
    convert(write_file(tmp_path / "x.safetensors", made.state_dict()))
    loaded = load_component("controlnet", tmp_path / "converted", DEVICE)
    assert type(loaded) is type(made)
    for ours, theirs in zip(residuals(loaded), residuals(made), strict=True):
        assert torch.equal(ours, theirs)


def test_other_networks_beside_a_prefixed_controlnet_are_not_read(tmp_path: Path) -> None:
    made = network("small")
    named = {f"control_model.{name}": tensor for name, tensor in ldm_tensors(made).items()}
    named["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(4, 4, 3, 3)
    named["first_stage_model.encoder.conv_in.weight"] = torch.zeros(4, 3, 3, 3)
    _, own = convert(write_file(tmp_path / "x.safetensors", named))
    assert set(own) == set(made.state_dict())


def test_half_precision_shards_are_read_together(tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in network("small").state_dict().items()}
    names = sorted(tensors)
    half = len(names) // 2
    files = []
    for number, part in enumerate((names[:half], names[half:]), start=1):
        file = tmp_path / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        files.append(write_file(file, {name: tensors[name] for name in part}))
    _, own = convert(*files)
    assert all(torch.equal(own[name], tensor) for name, tensor in tensors.items())


def test_scaled_eight_bit_floats_are_widened(tmp_path: Path) -> None:
    made = network("small")
    tensors = dict(ldm_tensors(made))
    name = "input_blocks.1.0.in_layers.2.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    expected = tensors[name].float() * 0.5
    tensors["input_blocks.1.0.in_layers.2.scale_weight"] = torch.tensor(0.5)
    tensors["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    _, own = convert(write_file(tmp_path / "x.safetensors", tensors))
    assert torch.equal(own["down_blocks.0.resnets.0.conv1.weight"].float(), expected)


def test_weights_that_are_not_finite_are_found(tmp_path: Path) -> None:
    tensors = dict(network("small").state_dict())
    tensors["conv_in.bias"] = torch.full((32,), torch.nan)
    path = write_file(tmp_path / "x.safetensors", tensors)
    assert "x.safetensors: conv_in.bias: NaN or infinity" in refuse(path)


def test_settings_of_published_folders_are_accepted(tmp_path: Path) -> None:
    """xinsir's configurations: another class, null for False, and no settings of the union."""
    made = network("promax")
    changes = {"upcast_attention": None, "class_embed_type": None, "_name_or_path": "x"}
    folder = write_folder(tmp_path, made, _class_name="ControlNetModel", **changes)
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in content.items() if not key.startswith("num_")}
    (folder / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    config, _ = convert(*sorted(folder.iterdir()))
    assert config["_class_name"] == "ControlNetUnionModel"
    assert config["num_control_type"] == 8
    assert config["num_trans_channel"] == 32
    assert config["upcast_attention"] is False


def test_channel_order_is_of_no_account_for_grey_maps(tmp_path: Path) -> None:
    order = {"controlnet_conditioning_channel_order": "bgr"}
    folder = write_folder(tmp_path, network("small"), **order)
    config, _ = convert(*sorted(folder.iterdir()))
    assert config["controlnet_conditioning_channel_order"] == "rgb"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"conditioning_channels": 4}, "conditioning_channels is 4"),
        ({"global_pool_conditions": True}, "global_pool_conditions is True"),
        ({"addition_embed_type": None}, "addition_embed_type is None where model base has"),
        ({"addition_embed_type": "text"}, "addition_embed_type is text where model base has"),
        ({"class_embed_type": "timestep"}, "class_embed_type is timestep"),
        ({"encoder_hid_dim": 4096}, "encoder_hid_dim is 4096"),
        ({"down_block_types": ["DownBlock2D"] * 2}, "down_block_types is"),
        ({"down_block_types": ["DownBlock2D", "Other", "Other"]}, "down_block_types is"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block_type is"),
        ({"block_out_channels": "wide"}, "block_out_channels is wide"),
        ({"block_out_channels": [32, 64, -96]}, "block_out_channels is"),
        ({"layers_per_block": 10**9}, "layers_per_block is 1000000000"),
        ({"layers_per_block": 3}, "list of residual channels is"),
        ({"norm_num_groups": 7}, "norm_num_groups is 7"),
        ({"norm_num_groups": None}, "norm_num_groups is None"),
        ({"attention_head_dim": [3, 4, 6]}, r"attention_head_dim is \[3, 4, 6\]"),
        ({"act_fn": "sine"}, "act_fn is sine"),
        ({"norm_eps": -1.0}, "norm_eps is -1.0"),
        ({"conditioning_embedding_out_channels": [8, 16]}, "conditioning_embedding_out_channels"),
        ({"conditioning_embedding_out_channels": [8, 16, 24, 48]}, "has the shape"),
        ({"transformer_layers_per_block": [1, 2, 4]}, "incomplete, without mid_block|down_blocks"),
        ({"transformer_layers_per_block": [1, 1, 1]}, "which a ControlNet of its configuration"),
        ({"mid_block_type": "UNetMidBlock2D"}, "which a ControlNet of its configuration has not"),
        ({"use_linear_projection": False}, "has the shape"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    folder = write_folder(tmp_path, network("full"), **changes)
    with pytest.raises(WeightsError, match=named):
        convert(*sorted(folder.iterdir()))


@pytest.mark.parametrize(
    ("label", "named"),
    [
        ("FluxControlNetModel", "a ControlNet for Flux"),
        ("SD3ControlNetModel", "a ControlNet for Stable Diffusion 3"),
        ("T2IAdapter", "a T2I-Adapter, which this service does not apply"),
        ("UNet2DConditionModel", "a UNet, not a ControlNet"),
        ("SanaControlNetModel", "a SanaControlNetModel, not a ControlNet for SDXL"),
        (["ControlNetModel"], "a ['ControlNetModel'], not a ControlNet for SDXL"),
    ],
)
def test_a_folder_of_another_class_is_named(tmp_path: Path, label: object, named: str) -> None:
    folder = write_folder(tmp_path, network("small"), _class_name=label)
    assert named in refuse(*sorted(folder.iterdir()))


SD15: dict[str, Any] = {
    "addition_embed_type": None, "addition_time_embed_dim": None,
    "projection_class_embeddings_input_dim": None, "cross_attention_dim": 768,
    "block_out_channels": [32, 64, 96, 96], "use_linear_projection": False,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "transformer_layers_per_block": 1, "attention_head_dim": 8,
}  # fmt: skip


@pytest.mark.parametrize("form", ["folder", "file", "ldm"])
@pytest.mark.parametrize(
    ("channels", "model"), [(768, "Stable Diffusion 1.5"), (1024, "Stable Diffusion 2")]
)
def test_controlnets_for_earlier_models_are_named(
    tmp_path: Path, form: str, channels: int, model: str
) -> None:
    made = network("full", **{**SD15, "cross_attention_dim": channels})
    files = sorted(write_folder(tmp_path / "folder", made).iterdir())
    if form == "file":
        files = [write_file(tmp_path / "x.safetensors", made.state_dict())]
    if form == "ldm":
        files = [write_file(tmp_path / "x.safetensors", ldm_tensors(made), "control_model.")]
    said = refuse(*files)
    assert f"a ControlNet for {model}, because its cross_attention_dim is {channels}" in said
    assert "name a ControlNet for SDXL" in said


def test_a_controlnet_of_another_width_does_not_fit(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.safetensors", network("small").state_dict())
    said = refuse(path, unets={"SDXL": PUBLISHED})
    assert "x.safetensors: no ControlNet for SDXL, because its " in said


def test_sdxl_is_expected_where_no_variant_is_known(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.safetensors", network("full").state_dict())
    assert "cross_attention_dim is 160 where SDXL has 2048" in refuse(path, unets={})


NO_SHAPE = torch.zeros(0)
OTHER_KINDS = [
    ({"lora_controlnet": NO_SHAPE, "input_hint_block.0.weight": NO_SHAPE}, "a control-LoRA"),
    ({"lllite_unet_input_blocks_4_1.conditioning1.0.weight": NO_SHAPE}, "a ControlNet-LLLite"),
    ({"adapter.body.0.resnets.0.block1.weight": NO_SHAPE}, "a T2I-Adapter"),
    ({"body.0.in_conv.weight": NO_SHAPE, "conv_in.weight": NO_SHAPE}, "a T2I-Adapter"),
    ({"image_proj.proj.weight": NO_SHAPE}, "an IP-Adapter"),
    ({"ip_adapter.1.to_k_ip.weight": NO_SHAPE}, "an IP-Adapter"),
    (
        {"controlnet_x_embedder.weight": NO_SHAPE, "controlnet_blocks.0.weight": NO_SHAPE},
        "a ControlNet for Flux",
    ),
    (
        {"double_blocks.0.img_attn.qkv.weight": NO_SHAPE, "input_hint_block.0.weight": NO_SHAPE},
        "a ControlNet for Flux",
    ),
    (
        {"pos_embed_input.proj.weight": NO_SHAPE, "controlnet_blocks.0.weight": NO_SHAPE},
        "a ControlNet for Stable Diffusion 3",
    ),
    ({"down_blocks.0.base_to_ctrl.0.weight": NO_SHAPE}, "a ControlNet-XS"),
    ({"lora_unet_down_blocks_1.lora_down.weight": NO_SHAPE}, "a LoRA, not a ControlNet"),
    (
        {"model.diffusion_model.out.2.weight": NO_SHAPE, "first_stage_model.x": NO_SHAPE},
        "a checkpoint, not a ControlNet",
    ),
    ({"model.diffusion_model.out.2.weight": NO_SHAPE}, "a UNet alone, not a ControlNet"),
    ({"encoder.conv_in.weight": NO_SHAPE}, "an autoencoder alone"),
    ({"up_blocks.0.resnets.0.conv1.weight": NO_SHAPE}, "a UNet alone"),
    ({"something.weight": NO_SHAPE}, "not a ControlNet"),
]


@pytest.mark.parametrize(("tensors", "named"), OTHER_KINDS)
def test_a_file_of_another_kind_is_named(
    tmp_path: Path, tensors: dict[str, torch.Tensor], named: str
) -> None:
    said = refuse(write_file(tmp_path / "x.safetensors", tensors))
    assert said.startswith(f"x.safetensors: {named}")
    assert "name a ControlNet for SDXL" in said


def test_damaged_single_files_are_refused(tmp_path: Path) -> None:
    tensors = dict(network("full").state_dict())
    path = tmp_path / "x.safetensors"

    def said(**changes: torch.Tensor | None) -> str:
        changed = {**tensors, **changes}
        kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
        return refuse(write_file(path, kept))

    last = "down_blocks.2.resnets.1.conv2.bias"
    assert f"incomplete, without {last}" in said(**{last: None})
    assert "incomplete, without down_blocks.1.resnets.0.conv1.weight" in said(
        **{"down_blocks.1.resnets.0.conv1.weight": None}
    )
    assert "has mid_block.extra.weight, which" in said(**{"mid_block.extra.weight": NO_SHAPE})
    assert f"{last} has the shape [5]" in said(**{last: torch.zeros(5)})
    assert "quantized" in said(**{last: torch.zeros(96, dtype=torch.int8)})
    deeper = {"mid_block.attentions.0.transformer_blocks.3.norm1.weight": torch.zeros(96)}
    assert "its middle block has 4 transformer blocks and its last level 3" in said(**deeper)


def test_a_configuration_without_attention_heads_takes_the_unets(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.safetensors", network("full").state_dict())
    config, _ = convert(path)
    for key in ("attention_head_dim", "norm_num_groups", "addition_time_embed_dim"):
        assert config[key] == UNET[key]
    published = json.loads((SDXL / "unet.json").read_text(encoding="utf-8"))
    assert settings("full", published)["attention_head_dim"] == [5, 10, 20]


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "x.safetensors")
    assert "not a ControlNet" in refuse(tmp_path / "x.safetensors")
