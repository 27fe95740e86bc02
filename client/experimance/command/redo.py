"""experimance redo: a picture once more, from what its file says, and whether it is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from PIL import Image, ImageChops

from experimance.command import naming
from experimance.command.console import is_screen, people, result, result_json, warn
from experimance.command.failures import FAILED, CommandFailed, told
from experimance.command.following import painted
from experimance.command.grouped import grouped
from experimance.command.service_options import Service
from experimance.command.show import opened
from experimance.command.terminal_picture import protocol_of
from experimance.fields import Fields
from experimance.parameters import DEPTH_CHUNK, START_CHUNK, embedded_inputs
from experimance.picture import Picture, suffix_of

_HINTS = get_type_hints(Fields) | {"prompt": str, "mock_depth": bool}
# Who asked, and until when, is no part of how a picture is painted.
FIELDS = frozenset(_HINTS) - {"request_id", "session", "deadline_ms"}
"""The parameters that a picture may be painted from again."""

NOT_FIELDS = {"software", "digests", "depth_sha256", "image_sha256"}
"""What the parameters tell beside fields of a request."""

_ROUNDED = 0.01
# What was already done to a depth map that lies inside the picture.
_DONE = {"invert_depth", "normalize_depth", "depth_estimator", "mock_depth"}


@grouped
def redo(
    picture: Annotated[Path, typer.Argument(help="A picture of this service.")],
    depth: Annotated[
        Path | None,
        typer.Option(help="The depth map it was painted from, where that is not inside."),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(help="The photograph it was painted from, where that is not inside."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The new file.", show_default="STEM-redo.EXT"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on stdout.")] = False,
    preview: Annotated[bool, typer.Option(help="Show it in the terminal.")] = True,
    *,
    service: Service,
) -> None:
    """Paint a picture again from its own parameters, and compare.

    Exit status 1 if it differs, unless another version of the service painted it.
    """
    with told(), service.client() as client:
        original, parameters = opened(picture)
        path = output or picture.with_name(f"{picture.stem}-redo{picture.suffix}")
        naming.refuse_taken([path], overwrite)
        fields = fields_of(original, parameters, depth, image)
        protocol = protocol_of(people) if preview and is_screen() else None
        again = painted(client.stream, path.name, protocol, **fields)
        if output is None:
            path = path.with_suffix(suffix_of(again.data))
        again.save(path)
        verdict = compared(original, parameters, again)
    if as_json:
        result_json({"file": str(path), **verdict.told()})
    else:
        result(str(path))
        people.print(verdict.sentence(), markup=False, soft_wrap=True)
    if not verdict.identical and not verdict.reasons.get("software"):
        raise typer.Exit(FAILED)


def fields_of(
    original: Image.Image, parameters: dict[str, Any], depth: Path | None, image: Path | None
) -> dict[str, Any]:
    """Arguments of a client's `stream` that paint a picture again.

    Raises:
        CommandFailed: it was painted from a file that is neither inside nor given, or from another
            one than is given.
    """
    inside = embedded_inputs(original)
    fields = request_fields(parameters)
    if depth is not None:
        fields["depth"] = _same(depth, parameters.get("depth_sha256"), "--depth")
    elif DEPTH_CHUNK in inside:
        fields = {name: value for name, value in fields.items() if name not in _DONE}
        fields["depth"] = inside[DEPTH_CHUNK]
    elif parameters.get("mock_depth"):
        fields["depth"] = "mock"
    elif parameters.get("depth_sha256"):
        raise _missing("depth map", "--depth", parameters["depth_sha256"])
    fields.pop("mock_depth", None)
    needed = parameters.get("strength") is not None or fields.get("depth_estimator") is not None
    if image is not None:
        content = _same(image, parameters.get("image_sha256"), "--image")
        # Where the depth estimated from it lies inside, it is of no more use.
        fields |= {"image": content} if needed else {}
    elif needed and START_CHUNK in inside:
        fields["image"] = inside[START_CHUNK]
    elif needed:
        raise _missing("photograph", "--image", parameters.get("image_sha256", ""))
    if inside:
        fields["embed_inputs"] = True
    return fields


def request_fields(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a request among a picture's parameters, and nothing else.

    Anybody can have written them: a name such as `depth` would make the client send a file of this
    machine.

    Raises:
        CommandFailed: a field has a value of another type than the request's.
    """
    fields = {name: value for name, value in parameters.items() if name in FIELDS}
    for name, value in fields.items():
        if not _has_type(value, _HINTS[name]):
            raise CommandFailed(f"the picture's parameter {name} is no value of that field")
    return fields


def _has_type(value: Any, hint: Any) -> bool:
    if get_origin(hint) in {Union, UnionType}:
        return any(_has_type(value, each) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is Sequence:
        return isinstance(value, list) and all(map(_is_lora, value))
    if get_origin(hint) is Mapping:
        # The service writes LoRAs as a list.
        return False
    return type(value) in ({int, float} if hint is float else {hint})


def _is_lora(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {"name", "strength"}
        and isinstance(value.get("name"), str)
        and type(value.get("strength", 1.0)) in {int, float}
    )


@dataclass(frozen=True)
class Verdict:
    """How a picture compares to the one before.

    `largest` is the largest difference of a channel, of 255; `share` the share of pixels that
    differ; None where the sizes do. `reasons` are what else differs, old and new.
    """

    identical: bool
    largest: int | None
    share: float | None
    reasons: dict[str, tuple[Any, Any]]

    def told(self) -> dict[str, Any]:
        """For --json."""
        reasons = {name: {"then": old, "now": new} for name, (old, new) in self.reasons.items()}
        return {
            "identical": self.identical,
            "largest_difference": self.largest,
            "share_of_pixels": self.share,
            "changed": reasons,
        }

    def sentence(self) -> str:
        """For people."""
        if self.identical:
            return "identical, bit for bit"
        if self.largest is None or self.share is None:
            said = "it differs: another size"
        else:
            said = f"it differs in {self.share:.3%} of its pixels, by {self.largest} of 255 at most"
            if self.largest == 1 and self.share < _ROUNDED and not self.reasons:
                said += ": rounding, as in pictures that are computed in one batch with others"
        for name, (old, new) in self.reasons.items():
            said += f"; {name} was {old or 'unknown'} and is {new or 'unknown'}"
        return said


def compared(original: Image.Image, parameters: dict[str, Any], again: Picture) -> Verdict:
    """The old and the new picture, pixel by pixel, and what of the service changed meanwhile."""
    now = again.parameters
    reasons = {
        name: (parameters.get(name), now.get(name))
        for name in ("software", "digests")
        if parameters.get(name) != now.get(name)
    }
    new = again.image
    if new.size != original.size:
        return Verdict(False, None, None, reasons)
    difference = ImageChops.difference(original.convert("RGB"), new.convert("RGB"))
    red, green, blue = difference.split()
    counts = ImageChops.lighter(ImageChops.lighter(red, green), blue).histogram()
    largest = max(value for value, count in enumerate(counts) if count)
    return Verdict(largest == 0, largest, 1 - counts[0] / sum(counts), reasons)


def _same(path: Path, digest: str | None, option: str) -> bytes:
    """The file's bytes, if it is the one of the digest."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if not digest:
        warn(f"{option}: the picture does not say which file it was painted from")
    elif found != digest:
        raise CommandFailed(
            f"{option}: {path} is another file than the picture was painted from",
            f"its SHA-256 is {found}, the right one's {digest}",
        )
    return content


def _missing(what: str, option: str, digest: str) -> CommandFailed:
    return CommandFailed(
        f"the {what} is not inside the picture; give it with {option}",
        f"its SHA-256 is {digest}" if digest else "",
    )
