"""The demo set's landscapes, pictures, prompts and tokenizer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from models.demo.training.data.degradation import degrade
from models.demo.training.data.eras import ERAS
from models.demo.training.data.prompts import FLAWS, make_flawed_prompt, make_prompt
from models.demo.training.data.rendering import render
from models.demo.training.data.terrain import KINDS, circular_crop, make_terrain
from models.demo.training.data.tokenizer import learn_merges, make_tokenizer, save_tokenizer
from testing.heldout import NOVEL, heldout


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 64), (40, 72)])
def test_terrain_is_reproducible_and_in_range(kind: str, size: tuple[int, int]) -> None:
    terrain, again = (make_terrain(3, size, kind) for _ in range(2))
    assert terrain.height.shape == size
    assert terrain.height.dtype == np.float32
    assert 0 <= terrain.height.min() < terrain.height.max() <= 1
    assert np.array_equal(terrain.height, again.height)
    assert not np.array_equal(terrain.height, make_terrain(4, size, kind).height)


def test_kinds_differ_for_one_seed() -> None:
    heights = [make_terrain(5, (64, 64), kind).height for kind in KINDS]
    for number, first in enumerate(heights):
        assert all(np.abs(first - second).mean() > 0.02 for second in heights[:number])


def test_depth_is_the_height_in_eight_bits() -> None:
    terrain = make_terrain(6, (64, 64))
    assert terrain.depth.dtype == np.uint8
    assert np.abs(terrain.depth / 255 - terrain.height).max() <= 0.5 / 255 + 1e-6


def test_circular_crop_is_zero_outside_and_untouched_inside() -> None:
    cropped = circular_crop(np.ones((64, 96), np.float32), 0.9, 0.1)
    assert cropped[0, 0] == cropped[32, 4] == 0
    assert cropped[32, 48] == 1


def test_some_seeds_are_cropped_and_some_are_not() -> None:
    corners = [make_terrain(seed, (48, 48), "rolling").height[0, 0] for seed in range(30)]
    assert 5 < sum(corner == 0 for corner in corners) < 25


@pytest.mark.parametrize("era", ERAS)
def test_pictures_repeat_and_get_brighter_with_height(era: str) -> None:
    ramp = np.tile(np.linspace(0, 1, 128, dtype=np.float32), (128, 1))
    picture = render(ramp, era, 1)
    assert picture.shape == (128, 128, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, render(ramp, era, 1))
    assert not np.array_equal(picture, render(ramp, era, 2))
    brightness = picture.mean((0, 2))
    assert brightness[:20].mean() < brightness[60:80].mean() < brightness[-20:].mean()


def test_light_comes_from_the_upper_left() -> None:
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    mound = (0.3 + 0.5 * np.exp(-4 * (x**2 + y**2))).astype(np.float32)
    for era in ERAS:
        grey = render(mound, era, 1).mean(-1)
        assert grey[34:54, 34:54].mean() > 1.1 * grey[74:94, 74:94].mean()


def test_eras_differ_in_mean_colour() -> None:
    height = make_terrain(8, (128, 128), "rolling").height
    means = [render(height, era, 1).mean((0, 1)) for era in ERAS]
    for number, first in enumerate(means):
        assert all(np.abs(first - second).max() > 8 for second in means[:number])


def test_degrading_changes_pixels_but_not_shape() -> None:
    picture = render(make_terrain(9, (64, 64)).height, "modern", 1)
    for seed in range(6):
        spoiled = degrade(picture, seed)
        assert spoiled.shape == picture.shape
        assert spoiled.dtype == np.uint8
        assert np.abs(spoiled.astype(int) - picture).mean() > 2


@pytest.mark.parametrize("era", ERAS)
def test_every_prompt_names_only_its_era(era: str) -> None:
    rng = np.random.default_rng(1)
    prompts = [make_prompt(rng, era) for _ in range(300)]
    assert len(set(prompts)) > 250
    for prompt in prompts:
        phrases = set(prompt.split(", "))
        assert phrases & {*ERAS[era].names, *ERAS[era].details}
        others = [other for key, other in ERAS.items() if key != era]
        assert not any(phrases & {*other.names, *other.details} for other in others)


def test_flawed_prompts_name_flaws() -> None:
    rng = np.random.default_rng(1)
    assert all(set(make_flawed_prompt(rng, "future").split(", ")) & {*FLAWS} for _ in range(50))


def test_merges_join_the_most_frequent_neighbours_first() -> None:
    words = Counter({("l", "o", "w</w>"): 5, ("l", "o", "t</w>"): 3, ("n", "o", "w</w>"): 1})
    assert learn_merges(words, 2) == [("l", "o"), ("lo", "w</w>")]
    assert len(learn_merges(words, 99)) == 5


def test_tokenizer_encodes_any_text_and_survives_saving(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    save_tokenizer(tokenizer, tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    end = tokenizer.eos_token_id
    for text in ("aerial photography, wilderness", "Grüße 世界 🙂", "", "\x00\t?!" * 90):
        arguments = {"padding": "max_length", "truncation": True, "max_length": 77}
        ids = tokenizer(text, **arguments).input_ids
        assert ids == loaded(text, **arguments).input_ids
        assert len(ids) == 77
        assert ids[0] == tokenizer.bos_token_id
        assert end in ids[1:]
    # Nothing becomes unknown, which in this vocabulary is the end token.
    assert end not in tokenizer("Grüße 世界 🙂", add_special_tokens=False).input_ids
    words = tokenizer("aerial photography", add_special_tokens=False).input_ids
    assert len(words) == 2


def test_heldout_maps_are_reproducible_and_mostly_novel() -> None:
    maps = heldout((64, 88))
    assert len(maps) >= 60
    assert sum(one.novel for one in maps) >= 30
    assert {one.kind for one in maps} >= {*NOVEL}
    assert not {*NOVEL} & {*KINDS}
    for one, again in zip(maps, heldout((64, 88)), strict=True):
        assert one.depth.shape == (64, 88)
        assert one.depth.dtype == np.uint8
        assert one.height.std() > 0.05
        assert np.array_equal(one.height, again.height)
