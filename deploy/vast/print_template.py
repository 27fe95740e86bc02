"""Print the commands that create the template; nothing is called.

python -m deploy.vast.print_template [MODE ...]
"""

from __future__ import annotations

import shlex
import sys

from deploy.vast.template import TemplateError, load_template


def main(arguments: list[str] | None = None) -> int:
    """Print one command per mode; returns the exit status."""
    wanted = sys.argv[1:] if arguments is None else arguments
    try:
        template = load_template()
    except TemplateError as error:
        print(error, file=sys.stderr)
        return 1
    if unknown := sorted(set(wanted) - set(template.modes)):
        accepted = ", ".join(template.modes)
        print(f"mode: {', '.join(unknown)} is none of {accepted}", file=sys.stderr)
        return 1
    for mode in template.modes:
        if not wanted or mode in wanted:
            print(f"# {mode}\n{shlex.join(template.command(mode))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
