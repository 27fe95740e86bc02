"""Weighted phrases: their syntax and their effect on the embeddings."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from common.prompt_syntax import Fragment, PromptWeightError, parse_prompt
from runners.diffusion.prompt_encoding import embed_prompt
from testing.workbench import demo_networks

PHRASES = ("hills", "golden fields", "!", "1600s", "<|endoftext|>", "Täler 山", "a, b.", "  ")


@pytest.mark.parametrize(
    ("prompt", "fragments"),
    [
        ("hills", [Fragment("hills")]),
        ("a (red:1.3) barn", [Fragment("a "), Fragment("red", 1.3), Fragment(" barn")]),
        ("(red barn:.5)", [Fragment("red barn", 0.5)]),
        ("(a:2)(b: 0 )", [Fragment("a", 2.0), Fragment("b", 0.0)]),
        ("hills (north)", [Fragment("hills (north)")]),
        ("note (see: there)", [Fragment("note (see: there)")]),
        ("(:1.2)", [Fragment("(:1.2)")]),
        ("(a:-1)", [Fragment("(a:-1)")]),
    ],
)
def test_weights_are_read(prompt: str, fragments: list[Fragment]) -> None:
    assert parse_prompt(prompt) == fragments


def test_weight_over_two_is_rejected() -> None:
    with pytest.raises(PromptWeightError, match=r"\(red:2\.1\).*between 0 and 2"):
        parse_prompt("a (red:2.1) barn")


@pytest.mark.parametrize(
    "prompt",
    [
        "(" + "a" * 30_000 + ":" + "1" * 30_000,
        "(" + " " * 60_000 + ":1",
        "(a:" + " " * 60_000,
        "(a:1" * 20_000,
        "(" * 60_000 + "a:1.2)",
    ],
)
def test_adversarial_prompt_is_parsed_quickly(prompt: str) -> None:
    """In linear time; a parser that tries every split of these would not come to an end."""
    assert "".join(fragment.text for fragment in parse_prompt(prompt)).count("a") == (
        prompt.count("a")
    )


def _embeds(prompt: str) -> torch.Tensor:
    return embed_prompt(demo_networks("base")[0], prompt, None, guided=False).embeds


def test_a_weight_of_one_changes_nothing() -> None:
    assert torch.equal(_embeds("a (red:1.0) barn"), _embeds("a red barn"))


def test_weights_scale_embeddings_relative_to_empty_prompt() -> None:
    plain, empty = _embeds("golden fields and hills"), _embeds("")
    stressed = _embeds("(golden fields:1.5) and hills")
    words = slice(1, 3)
    ratio = (stressed - empty)[:, words] / (plain - empty)[:, words]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1.5), atol=1e-2, rtol=0)
    torch.testing.assert_close(stressed[:, 20:], plain[:, 20:])
    faint, faintest = _embeds("(golden:0.7) fields"), _embeds("(golden:0.3) fields")
    whole = _embeds("golden fields")
    assert (faint - whole).norm() < (faintest - whole).norm()


def test_pooled_embeddings_ignore_weights() -> None:
    variant = demo_networks("base")[0]
    plain = embed_prompt(variant, "a red barn", None, guided=False).pooled
    assert torch.equal(embed_prompt(variant, "a (red:1.4) barn", None, guided=False).pooled, plain)


def test_embeddings_equal_compel() -> None:
    from compel import CompelForSDXL

    from testing.workbench import reference_pipeline

    pipeline: StableDiffusionXLPipeline = reference_pipeline()
    ours = embed_prompt(demo_networks("base")[0], "a (red:1.3) barn", "(dim:0.5) light", True)
    theirs = CompelForSDXL(pipeline)("a (red)1.3 barn", negative_prompt="(dim)0.5 light")
    torch.testing.assert_close(ours.embeds, theirs.embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.negative_embeds, theirs.negative_embeds, atol=1e-5, rtol=0)


@pytest.mark.slow
@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(PHRASES), min_size=1, max_size=5), st.floats(0, 2)),
        min_size=1,
        max_size=40,
    )
)
def test_mixed_prompts_are_encoded_without_truncation(parts: list[tuple[list[str], float]]) -> None:
    prompt = " ".join(f"({' '.join(words)}:{weight:.2f})" for words, weight in parts)
    embedding = embed_prompt(demo_networks("base")[0], prompt, "blurry", guided=True)
    assert embedding.embeds.shape[1] % 77 == 0
    assert embedding.embeds.isfinite().all()
    assert embedding.negative_embeds is not None
    assert embedding.negative_embeds.shape == embedding.embeds.shape
