"""The vast.ai template: parsed, validated, and converted to the command that creates it."""

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
# The command line has these values in double quotes within one argument.
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
    """An invalid template; the message names each field and the accepted values."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PortalEntry(_Frozen):
    """An entry of the instance's portal; different ports put the Caddy proxy in between."""

    name: str = Field(pattern=r"^[A-Za-z0-9 ._-]+$")
    external: Port
    internal: Port

    @property
    def text(self) -> str:
        """The entry in the format of PORTAL_CONFIG."""
        return f"localhost:{self.external}:{self.internal}:/:{self.name}"


class ModeSpec(_Frozen):
    """Additions of one launch mode."""

    onstart: str | None = None
    environment: dict[Variable, Value] = Field(default_factory=dict)
    portal: list[PortalEntry] = Field(default_factory=list)
    ports: list[Port] = Field(default_factory=list)


class Template(_Frozen):
    """A template with all its launch modes."""

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
        """Return the value of PORTAL_CONFIG."""
        return "|".join(entry.text for entry in (*self.portal, *self.modes[mode].portal))

    def variables(self, mode: Mode) -> dict[str, str]:
        """Return the instance's environment variables."""
        return {
            **self.environment,
            **self.modes[mode].environment,
            "PORTAL_CONFIG": self.portal_config(mode),
        }

    def ports(self, mode: Mode) -> list[int]:
        """Return the ports exposed to the outside."""
        spec = self.modes[mode]
        return [*(entry.external for entry in (*self.portal, *spec.portal)), *spec.ports]

    def command(self, mode: Mode, base: BaseImage) -> list[str]:
        """Return the vast.ai command that creates the template.

        Args:
            mode: the launch mode.
            base: the image's base; hosts need a driver for its CUDA version.
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
        TemplateError: The file is not YAML, or the template is invalid.
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
    """Print one command per mode; return the exit status."""
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
