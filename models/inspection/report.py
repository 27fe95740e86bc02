"""Report on a weight file, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

_MAX_LEFT_OUT = 5
"""Maximum number of left-out parts in the text; JSON has all."""


@dataclass(frozen=True, slots=True)
class FileReport:
    """What a weight file is.

    `kind` is a noun phrase. `fits` has the labels of the models that can use it. `size` is in
    bytes. `dtypes` has the number of tensors by dtype, `parts` the number of tensors or layers by
    network. `problem` is the reason why the file cannot be used, with what to do; then `entry`,
    the TOML of its catalog entry, is None.
    """

    file: str
    size: int
    kind: str
    fits: Sequence[str] = ()
    parts: Mapping[str, int] = field(default_factory=dict)
    dtypes: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None
    entry: str | None = None

    @property
    def is_usable(self) -> bool:
        """Whether the service can use the file."""
        return self.problem is None

    def as_json(self) -> dict[str, Any]:
        """Return the report for scripts."""
        return {**asdict(self), "usable": self.is_usable}

    def as_text(self) -> str:
        """Return the report for people; the catalog entry stands at the end, unindented."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        purpose = f" for {', '.join(self.fits)}" if self.fits else ""
        yield f"{self.file}: {self.kind}{purpose}, {self.size / 1e6:.1f} MB"
        rows = dict(self.details)
        if self.parts:
            rows["parts"] = ", ".join(f"{name} {count}" for name, count in self.parts.items())
        if self.dtypes:
            rows["dtypes"] = ", ".join(f"{name} {count}" for name, count in self.dtypes.items())
        for label, text in (rows | dict(self.training)).items():
            yield f"  {label:<16} {text}"
        if self.left_out:
            named = [f"{part} ({reason})" for part, reason in self.left_out.items()]
            more = len(named) - _MAX_LEFT_OUT
            rest = f" and {more} more" if more > 0 else ""
            yield f"  {'not applied':<16} {', '.join(named[:_MAX_LEFT_OUT])}{rest}"
        if self.problem is not None:
            yield f"  {'cannot be used':<16} {self.problem}"
        if self.entry is not None:
            yield ""
            yield self.entry
