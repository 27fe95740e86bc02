#!/bin/bash
# Install the service's requirements without changing the base image's torch.
#
# install.sh REQUIREMENTS TORCH [XFORMERS_VERSION]      the environment is $VENV (/venv/main)
#
# REQUIREMENTS is a complete lock without the torch family, so dependencies are not resolved.
# TORCH is the accepted range of versions: torch>=2.11,<2.15

set -euo pipefail
requirements=$1 torch=$2 xformers=${3:-}
venv=${VENV:-/venv/main}
python=$venv/bin/python
here=$(dirname "$(readlink -f "$0")")

install() {
    if command -v uv >/dev/null; then
        # Compiled here, because the service's user cannot write the modules at its first start.
        uv pip install --no-cache --compile-bytecode --python "$python" "$@"
    else
        "$python" -m pip install --no-cache-dir --disable-pip-version-check "$@"
    fi
}

# Print the installed versions of torch and of the packages compiled against it.
held() {
    "$python" - <<'PYTHON'
from importlib.metadata import PackageNotFoundError, version

for name in ("torch", "torchvision", "torchaudio", "triton"):
    try:
        print(f"{name}=={version(name)}")
    except PackageNotFoundError:
        pass
PYTHON
}

before=$(mktemp)
held >"$before"
grep -q '^torch==' "$before" || { echo "the base image has no torch in $venv" >&2; exit 1; }

install --no-deps --requirement "$requirements"
"$python" "$here/check_torch.py" "$torch"
if [[ $xformers ]]; then
    if install --no-deps "xformers==$xformers" && "$python" "$here/probe_xformers.py"; then
        echo "xformers $xformers stays"
    else
        echo "xformers $xformers does not run beside $(head -n 1 "$before"): left out"
        if command -v uv >/dev/null; then
            uv pip uninstall --python "$python" xformers || true
        else
            "$python" -m pip uninstall --yes xformers || true
        fi
    fi
fi

held | diff "$before" - || { echo "the installation moved the base image's torch" >&2; exit 1; }
rm "$before"
"$python" -c 'import torch, bentoml, diffusers, transformers'
