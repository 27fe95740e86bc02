"""The vast.ai template: read, validated, and turned into the command that creates it."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic import model_validator as pydantic_model_validator

from deploy.vast.base import BaseImage, BaseImageError, default_base, parse_base

FILE = Path(__file__).with_name("template.yml")

Mode = Literal["entrypoint", "ssh", "jupyter", "serverless"]
Port = Annotated[int, Field(ge=1, le=65535)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]
# They stand between double quotes in one argument of the command line.
Value = Annotated[str, StringConstraints(pattern=r"^[^\"\\\\$`\n]*$")]
Filter = Annotated[str, StringConstraints(pattern=r"^[a-z_]+(=|!=|>=|<=|>|<)[A-Za-z0-9_.]+$")]
_PORTAL = ("Instance Portal", 1111, 11111)
_OPTIONS: dict[Mode, list[str]] = {
    "entrypoint": [],
    "ssh": ["--ssh", "--direct"],
    "jupyter": ["--jupyter", "--direct"],
    "serverless": [],
}


class TemplateError(ValueError):
    """A template that cannot be read; the message names each field and what it accepts."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PortalEntry(_Frozen):
    """What the instance's portal shows; with different ports a proxy stands between."""

    name: str = Field(pattern=r"^[A-Za-z0-9 ._-]+$")
    external: Port
    internal: Port

    @property
    def text(self) -> str:
        """As PORTAL_CONFIG has it."""
        return f"localhost:{self.external}:{self.internal}:/:{self.name}"


class ModeSpec(_Frozen):
    """What one way to launch an instance adds."""

    onstart: str | None = None
    environment: dict[Variable, Value] = Field(default_factory=dict)
    portal: list[PortalEntry] = Field(default_factory=list)
    ports: list[Port] = Field(default_factory=list)


class Template(_Frozen):
    """A template, in every mode in which it can be launched."""

    name: str = Field(min_length=1)
    description: str = ""
    image: str = Field(pattern=r"^[a-z0-9./_-]+$")
    tag: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    disk_gb: int = Field(ge=20, description="GB of the instance's disk")
    portal: list[PortalEntry] = Field(min_length=1)
    environment: dict[Variable, Value]
    modes: dict[Mode, ModeSpec] = Field(min_length=1)
    search: list[Filter]

    @pydantic_model_validator(mode="after")
    def _tag_does_not_float(self) -> Template:
        if self.tag == "latest":
            raise ValueError("tag: latest means another image tomorrow; name one")
        return self

    @pydantic_model_validator(mode="after")
    def _portal_is_first(self) -> Template:
        first = self.portal[0]
        if (first.name, first.external, first.internal) != _PORTAL:
            raise ValueError("portal: the first entry has to be Instance Portal, 1111, 11111")
        return self

    @pydantic_model_validator(mode="after")
    def _replaced_entry_points_are_called(self) -> Template:
        for mode in ("ssh", "jupyter"):
            if mode in self.modes and "entrypoint.sh" not in (self.modes[mode].onstart or ""):
                raise ValueError(f"modes.{mode}.onstart: has to call entrypoint.sh")
        return self

    def portal_config(self, mode: Mode) -> str:
        """The value of PORTAL_CONFIG."""
        return "|".join(entry.text for entry in (*self.portal, *self.modes[mode].portal))

    def variables(self, mode: Mode) -> dict[str, str]:
        """The instance's environment."""
        return {
            **self.environment,
            **self.modes[mode].environment,
            "PORTAL_CONFIG": self.portal_config(mode),
        }

    def ports(self, mode: Mode) -> list[int]:
        """The ports that are open to the outside."""
        spec = self.modes[mode]
        return [*(entry.external for entry in (*self.portal, *spec.portal)), *spec.ports]

    def command(self, mode: Mode, base: BaseImage) -> list[str]:
        """Return the call of vast.ai's command line that creates it.

        Args:
            mode: how the instance is launched.
            base: what the image is built on; hosts need a driver for its CUDA.
        """
        ports = [f"-p {port}:{port}" for port in self.ports(mode)]
        variables = [f"-e {name}={_quoted(value)}" for name, value in self.variables(mode).items()]
        onstart = self.modes[mode].onstart
        return [
            *("vastai", "create", "template"),
            *("--name", self.name if mode == "entrypoint" else f"{self.name}-{mode}"),
            *("--desc", self.description),
            *("--image", self.image, "--image_tag", self.tag),
            *("--env", " ".join([*ports, *variables])),
            *("--disk_space", str(self.disk_gb)),
            *("--search_params", " ".join([*self.search, base.host_filter])),
            *(("--onstart-cmd", onstart) if onstart else ()),
            *_OPTIONS[mode],
        ]


def load_template(file: Path = FILE) -> Template:
    """Read and validate a template.

    Raises:
        TemplateError: not YAML, or not valid.
    """
    try:
        return Template.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise TemplateError(f"{file.name} is not YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'template'}: {item['msg']}"
            for item in error.errors(include_url=False, include_context=False)
        )
        raise TemplateError(f"{file.name} is not valid: {problems}") from error


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[A-Za-z0-9_./-]*", value) else f'"{value}"'


def main(arguments: list[str] | None = None) -> int:
    """Print one command per mode; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.vast.template")
    parser.add_argument("--base", help="what the image was built on; unset: the Dockerfile's")
    parser.add_argument("modes", nargs="*", metavar="MODE", help="unset: all of them")
    options = parser.parse_args(arguments)
    try:
        template = load_template()
        base = parse_base(options.base) if options.base else default_base()
    except (TemplateError, BaseImageError) as error:
        print(error, file=sys.stderr)
        return 1
    if unknown := sorted(set(options.modes) - set(template.modes)):
        accepted = ", ".join(template.modes)
        print(f"mode: {', '.join(unknown)} is none of {accepted}", file=sys.stderr)
        return 1
    for mode in template.modes:
        if not options.modes or mode in options.modes:
            print(f"# {mode}\n{shlex.join(template.command(mode, base))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
