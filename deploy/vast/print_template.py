"""Print the commands that create the template; nothing is called.

python -m deploy.vast.print_template [--base IMAGE] [MODE ...]
"""

from __future__ import annotations

import argparse
import shlex
import sys

from deploy.vast.base import BaseImageError, default_base, parse_base
from deploy.vast.template import TemplateError, load_template


def main(arguments: list[str] | None = None) -> int:
    """Print one command per mode; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.vast.print_template")
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
