"""Start a service's processes as in an environment for serving, and with a fault if asked to.

Python imports this module at the start of a process whose PYTHONPATH has this folder.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

_modules: dict[str, Any] = sys.modules
# Of the development packages diffusers imports these where it finds them, for more than 2 s.
for _name in ("peft", "scipy"):
    _modules[_name] = None

if "DEVICE_FAULT" in os.environ:
    # Found by its bare name: this folder is in PYTHONPATH.
    importlib.import_module("device_fault").install()
