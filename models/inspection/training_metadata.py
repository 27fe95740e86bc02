"""Texts that trainers write into a safetensors file's metadata.

The keys are those of kohya's sd-scripts (`ss_`) and of Stability's model specification
(`modelspec.`). The texts come from strangers, so control characters and long texts are removed.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Any

_MAX_CHARACTERS = 200
_MAX_TAGS = 8
_MAX_TAG_BYTES = 4 * 2**20
"""Maximum size of the training tags that are parsed."""

_FIELDS = {
    "title": ("modelspec.title", "ss_output_name"),
    "author": ("modelspec.author",),
    "licence": ("modelspec.license",),
    "base model": ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name"),
    "network module": ("ss_network_module",),
    "resolution": ("modelspec.resolution", "ss_resolution"),
    "prediction type": ("modelspec.prediction_type",),
    "trigger phrase": ("modelspec.trigger_phrase",),
    "usage hint": ("modelspec.usage_hint",),
}


def clean_text(text: str, limit: int = _MAX_CHARACTERS) -> str:
    """Return a text on one line, without control and format characters, and cut to a length.

    Args:
        text: any text.
        limit: maximum number of characters of the result.
    """
    # Escape sequences, text direction marks and lone surrogates are of categories C*.
    start = text[: 4 * limit]
    plain = "".join(" " if unicodedata.category(each)[0] == "C" else each for each in start)
    words = " ".join(plain.split())
    if len(words) <= limit and len(text) <= len(start):
        return words
    return f"{words[: limit - 1].rstrip()}…"


def describe_training(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return what a file's metadata says about its training, by label; cleaned texts.

    Args:
        metadata: the file's `__metadata__`.
    """
    found = {}
    for label, keys in _FIELDS.items():
        texts = (clean_text(metadata.get(key, "")) for key in keys)
        if (text := next(filter(None, texts), None)) is not None:
            found[label] = text
    if tags := frequent_tags(metadata.get("ss_tag_frequency", "")):
        found["frequent tags"] = ", ".join(tags)
    return found


def frequent_tags(text: str) -> list[str]:
    """Return the most frequent tags of a training set, which include the trigger words.

    Args:
        text: kohya's `ss_tag_frequency`: JSON with counts by tag, by folder of the training set.
    """
    if len(text) > _MAX_TAG_BYTES:
        return []
    try:
        folders: Any = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return []
    counts: Counter[str] = Counter()
    for folder in folders.values() if isinstance(folders, dict) else ():
        for tag, count in folder.items() if isinstance(folder, dict) else ():
            if type(count) is int and count > 0 and (cleaned := clean_text(tag, 60)):
                counts[cleaned] += count
    return [tag for tag, _ in counts.most_common(_MAX_TAGS)]
