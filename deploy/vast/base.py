"""Base image of the vast.ai image: parsed from its tag, validated before a build."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from deploy.setup.installer import torch_requirement

DOCKERFILE = Path(__file__).with_name("Dockerfile")

_FORM = "vastai/pytorch:<torch>-cu<cuda of torch>-cuda-<cuda of the image>-mini-py<python>-<date>"
_NAME = re.compile(
    r"\S+:(?P<torch>\d+\.\d+\.\d+)-cu(?P<cuda>\d{3})-cuda-\d+\.\d+-mini"
    r"-py3(?P<minor>\d\d)-\d{4}-\d\d-\d\d(@sha256:[0-9a-f]{64})?"
)
_PYTHON_MINORS = range(11, 15)
_OLDEST_CUDA = (12, 8)


class BaseImageError(ValueError):
    """A base image that does not fit; the message names what is accepted."""


@dataclass(frozen=True, slots=True)
class BaseImage:
    """A pinned vastai/pytorch image.

    Attributes:
        name: full name, as for `docker pull`.
        torch: version of its torch, e.g. "2.14.1".
        cuda: CUDA version of its torch build, e.g. (13, 0).
    """

    name: str
    torch: str
    cuda: tuple[int, int]

    @property
    def host_filter(self) -> str:
        """The vast.ai search filter for hosts whose driver supports this CUDA version.

        CUDA guarantees that a program runs on the drivers of every release of the same major
        version.
        """
        major, minor = self.cuda
        return f"cuda_vers>={major}.{minor}"


def parse_base(name: str) -> BaseImage:
    """Parse the properties of a base image from its tag.

    Raises:
        BaseImageError: The tag is not pinned, or its torch, CUDA or Python is not supported.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise BaseImageError(f"--base: {name} is not pinned; give {_FORM}")
    digits = found["cuda"]
    base = BaseImage(name, found["torch"], (int(digits[:-1]), int(digits[-1])))
    wanted = Requirement(torch_requirement())
    if base.torch not in wanted.specifier:
        raise BaseImageError(f"--base: {name} has torch {base.torch}, and {wanted} is needed")
    if base.cuda < _OLDEST_CUDA:
        oldest = ".".join(map(str, _OLDEST_CUDA))
        raise BaseImageError(
            f"--base: its torch is built for CUDA {digits}; {oldest} is the oldest"
        )
    if int(found["minor"]) not in _PYTHON_MINORS:
        raise BaseImageError(f"--base: {name} has Python 3.{found['minor']}; 3.11 to 3.14 serve")
    return base


def default_base() -> BaseImage:
    """Return the Dockerfile's base image."""
    found = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return parse_base(found[1])
