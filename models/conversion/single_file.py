"""One component in one safetensors file, in the names of SDXL's training code or of the libraries.

Such files have no configuration. It is that of the variant's own component or SDXL's, whichever
has the file's shapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from models.conversion.checkpoint import reject_extra_tensors, slice_tensor
from models.conversion.component import canonical_name, refuse_pickle, weight_name
from models.conversion.config import SDXL, canonicalize_config, write_config
from models.conversion.detect_kind import detect_non_sdxl
from models.conversion.safetensors_io import OnBytes, TensorEntry, WeightsError, read_header
from models.conversion.sdxl_key_map import PREFIXES, Config, KeyMapping, key_mappings
from models.conversion.tensor_copy import Dtype, write_slices

SINGLE_FILE_KINDS = ("text_encoder", "text_encoder_2", "unet", "vae")
"""Components that a single file can hold."""

# Prefixes before the names of SDXL's training code; a whole checkpoint has the first.
_TRAINING_PREFIXES = {
    "text_encoder": (PREFIXES["text_encoder"], "clip_l.transformer.", "transformer."),
    "text_encoder_2": (PREFIXES["text_encoder_2"], "clip_g.", "model.", ""),
    "unet": (PREFIXES["unet"], "diffusion_model.", ""),
    "vae": (PREFIXES["vae"], "vae.", ""),
}
# Prefixes before the libraries' names.
_LIBRARY_PREFIXES = {
    "text_encoder": ("", "text_encoder.", "clip_l."),
    "text_encoder_2": ("", "text_encoder_2.", "clip_g.transformer.", "clip_g."),
    "unet": ("", "unet."),
    "vae": ("", "vae."),
}


@dataclass(frozen=True, slots=True)
class _Match:
    """A way to read a component from a file.

    `found` counts the planned tensors of the right shape, and those that exist at all.
    """

    config: Config
    prefix: str
    planned: Sequence[KeyMapping]
    found: tuple[int, int]


def convert_single_file(
    kind: str,
    file: Path,
    target: Path,
    dtype: Dtype | None,
    config: Path | None = None,
    advance: OnBytes | None = None,
) -> None:
    """Write the component of a single file in the store's form.

    Args:
        kind: One of SINGLE_FILE_KINDS.
        file: Safetensors file of the component alone, or of a checkpoint that contains it.
        target: Folder of the result; created if it does not exist.
        dtype: Dtype of the written floating-point tensors; None keeps the file's.
        config: Configuration of the variant's own component of that kind; None without one.
        advance: Function called with the number of bytes of each piece written.

    Raises:
        WeightsError: The file has another format, is another kind of file or of another model, or
            is incomplete.
        OSError: A file cannot be read or written.
    """
    header, match = _find_match(kind, file, config)
    pieces = {move.target: slice_tensor(file, header, move) for move in match.planned}
    target.mkdir(parents=True, exist_ok=True)
    write_config(target, match.config)
    write_slices(target / weight_name(kind), pieces, dtype, advance)


def check_single_file(kind: str, file: Path, config: Path | None = None) -> None:
    """Check the component of a single file as its conversion does, from the file's header.

    Args:
        kind: One of SINGLE_FILE_KINDS.
        file: Safetensors file of the component alone, or of a checkpoint that contains it.
        config: Configuration of the variant's own component of that kind; None without one.

    Raises:
        WeightsError: As for `convert_single_file`.
        OSError: The file cannot be read.
    """
    _find_match(kind, file, config)


def _find_match(
    kind: str, file: Path, config: Path | None
) -> tuple[dict[str, TensorEntry], _Match]:
    """Return a file's header and the checked way to read the component from it."""
    refuse_pickle(file)
    header = _canonical_header(kind, read_header(file))
    match = max(_matches(kind, header, _configs(kind, config)), key=lambda each: each.found)
    _check(kind, file, header, match)
    return header, match


def _configs(kind: str, own: Path | None) -> Iterator[Config]:
    if own is not None:
        yield canonicalize_config(kind, json.loads(own.read_text(encoding="utf-8")))
    yield json.loads((SDXL / f"{kind}.json").read_text(encoding="utf-8"))


def _canonical_header(kind: str, header: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Return the tensors under their names and, in the libraries' naming, their current ones."""
    found = dict(header)
    for name, entry in header.items():
        for prefix in _LIBRARY_PREFIXES[kind]:
            if name.startswith(prefix):
                canonical = canonical_name(kind, name.removeprefix(prefix))
                if canonical is not None:
                    found.setdefault(prefix + canonical, entry)
    return found


def _matches(
    kind: str, header: Mapping[str, TensorEntry], configs: Iterator[Config]
) -> Iterator[_Match]:
    """Yield every combination of configuration and naming, those of the right shapes first."""
    for config in configs:
        moves = key_mappings(kind, config)
        for prefix, planned in _namings(kind, moves):
            chosen = [_existing(move, header) for move in planned]
            existing = [move for move in chosen if move.source in header]
            fitting = [m for m in existing if header[m.source].shape in m.source_shapes]
            yield _Match(config, prefix, chosen, (len(fitting), len(existing)))


def _namings(kind: str, moves: Sequence[KeyMapping]) -> Iterator[tuple[str, list[KeyMapping]]]:
    """Yield the mappings in every naming, with the prefix of its tensors."""
    for prefix in _TRAINING_PREFIXES[kind]:
        yield (
            prefix,
            [
                replace(move, source=prefix + move.source.removeprefix(PREFIXES[kind]))
                for move in moves
            ],
        )
    for prefix in _LIBRARY_PREFIXES[kind]:
        yield (
            prefix,
            [
                KeyMapping(prefix + move.target, move.target, move.shape, (move.shape,))
                for move in moves
            ],
        )


def _existing(move: KeyMapping, header: Mapping[str, TensorEntry]) -> KeyMapping:
    """Return the mapping, or that of the projection's other spelling if the file has that one."""
    other = f"{move.source}.weight"
    if move.transposed and move.source not in header and other in header:
        return KeyMapping(other, move.target, move.shape, (move.shape,))
    return move


def _check(kind: str, file: Path, header: Mapping[str, TensorEntry], match: _Match) -> None:
    """Raise WeightsError if the file lacks a tensor, or has one of another shape or too many."""
    missing = [move.source for move in match.planned if move.source not in header]
    if len(missing) == len(match.planned):
        other = detect_non_sdxl(header) or "another kind of file"
        raise WeightsError(f"{file.name}: no {kind} but {other}")
    for move in match.planned:
        if move.source in missing:
            continue
        shape = header[move.source].shape
        if shape not in move.source_shapes:
            raise WeightsError(
                f"{file.name}: {move.source} has the shape {list(shape)} where this {kind} has "
                f"{list(move.source_shapes[0])}: it belongs to another model"
            )
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(f"{file.name}: no complete {kind}, without {missing[0]}{more}")
    if kind == "unet":
        reject_extra_tensors(file.name, header, match.planned, match.prefix)
