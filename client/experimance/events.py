"""Events of a stream, in this order: Queued, Started, Step (repeated), Done."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image

from experimance.results import Picture, decode_image


@dataclass(frozen=True)
class Queued:
    """The request waits in the queue, behind `position` other requests."""

    position: int


@dataclass(frozen=True)
class Started:
    """The service began to process the request."""


@dataclass(frozen=True)
class Step:
    """`step` of `steps` denoising steps are done.

    `preview_file` is a small JPEG, sent at most five times per second.
    """

    step: int
    steps: int
    preview_file: bytes | None = field(default=None, repr=False)

    @cached_property
    def preview(self) -> Image.Image | None:
        """Preview of the unfinished image, if the event carries one."""
        return None if self.preview_file is None else decode_image(self.preview_file)


@dataclass(frozen=True)
class Done:
    """The image is finished; always the last event."""

    picture: Picture


Event = Queued | Started | Step | Done
