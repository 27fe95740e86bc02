"""What a stream tells, in this order: Queued, Started, Step …, Done."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image

from experimance.picture import Picture, opened


@dataclass(frozen=True)
class Queued:
    """It waits; so many requests are before it."""

    position: int


@dataclass(frozen=True)
class Started:
    """The work began."""


@dataclass(frozen=True)
class Step:
    """So many of the steps are done. `preview_file` is a small JPEG, a few times a second."""

    step: int
    steps: int
    preview_file: bytes | None = field(default=None, repr=False)

    @cached_property
    def preview(self) -> Image.Image | None:
        """The picture as far as it is, where the event brings one."""
        return None if self.preview_file is None else opened(self.preview_file)


@dataclass(frozen=True)
class Done:
    """The picture is finished: the last event."""

    picture: Picture


Event = Queued | Started | Step | Done
