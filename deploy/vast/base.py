"""The image that the vast.ai image is built on: read from its tag, checked before a build."""

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
    """A base that the image cannot be built on; the message says what is accepted."""


@dataclass(frozen=True, slots=True)
class BaseImage:
    """A pinned vastai/pytorch image.

    Attributes:
        name: as `docker pull` takes it.
        torch: version of its torch, "2.14.1".
        cuda: the CUDA that its torch is built for, (13, 0).
    """

    name: str
    torch: str
    cuda: tuple[int, int]

    @property
    def host_filter(self) -> str:
        """What vast.ai's search has to ask of a host: a driver for the CUDA of torch.

        CUDA promises that programs of one release run on the drivers of every release of the same
        major version.
        """
        major, minor = self.cuda
        return f"cuda_vers>={major}.{minor}"


def parse_base(name: str) -> BaseImage:
    """Read what an image is from its tag.

    Raises:
        BaseImageError: the tag is not pinned, or its torch, CUDA or Python do not serve.
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
    """Return the base that the Dockerfile names."""
    found = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return parse_base(found[1])
