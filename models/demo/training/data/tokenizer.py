"""CLIP tokenizer with a small vocabulary, learned from the demo set's prompts.

It is a byte-level tokenizer: every byte has a token, so that any text can be encoded.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from models.demo.training.data import prompts
from models.demo.training.data.eras import ERAS

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MERGES = 900
LENGTH = 77

Pair = tuple[str, str]


def _count_words() -> Counter[tuple[str, ...]]:
    """Count the words of many sampled prompts, split into symbols."""
    rng = np.random.default_rng(7)
    words: Counter[tuple[str, ...]] = Counter()
    for era in ERAS:
        for make in (prompts.make_prompt, prompts.make_flawed_prompt):
            for _ in range(1500):
                for word in re.findall(r"[a-z]+|\d|[^\sa-z\d]+", make(rng, era).lower()):
                    words[*word[:-1], word[-1] + WORD_END] += 1
    return words


def _merge(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """Return the word with every occurrence of the pair joined, from the left."""
    symbols: list[str] = []
    for symbol in word:
        if symbols and (symbols[-1], symbol) == pair:
            symbols[-1] += symbol
        else:
            symbols.append(symbol)
    return tuple(symbols)


def learn_merges(words: Counter[tuple[str, ...]], count: int) -> list[Pair]:
    """Learn up to `count` merges by byte pair encoding (Sennrich et al., arXiv:1508.07909).

    Each merge joins the most frequent pair of neighbours. Ties go to the alphabetically first
    pair, so that the result is deterministic.
    """
    merges: list[Pair] = []
    while len(merges) < count:
        pairs: Counter[Pair] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, times in words.items():
            merged[_merge(word, best)] += times
        words = merged
    return merges


@functools.cache
def _learned_merges() -> tuple[Pair, ...]:
    return tuple(learn_merges(_count_words(), MERGES))


def make_tokenizer() -> CLIPTokenizer:
    """Return the tokenizer: 512 byte tokens, the learned merges, begin and end."""
    merges = _learned_merges()
    letters = sorted(ByteLevel.alphabet())
    symbols = letters + [letter + WORD_END for letter in letters]
    symbols += dict.fromkeys(left + right for left, right in merges)
    symbols += [BEGIN, END]
    vocabulary = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    return CLIPTokenizer(vocab=vocabulary, merges=[*merges], model_max_length=LENGTH)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write tokenizer.json, and vocab.json and merges.txt for older readers."""
    tokenizer.save_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
