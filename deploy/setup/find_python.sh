#!/bin/sh
# Print the path of a suitable Python. Without one, print to stderr what to install.
#
# find_python.sh [PYTHON]     PYTHON: a command or a path; default: the first suitable one on PATH

set -u
os_release=${OS_RELEASE:-/etc/os-release}
needed="Python 3.11.2 to 3.14 is needed"

# Print "fits", or the version and the defect; print nothing if the program does not run.
examine() {
	"$1" -c '
import sys
version = ".".join(map(str, sys.version_info[:3]))
if not hasattr(sys, "implementation") or sys.implementation.name != "cpython":
    print(version + ", which is not CPython")
elif sys.version_info[:3] < (3, 11, 2):
    print(version + ", which is too old")
elif sys.version_info[:2] > (3, 14):
    print(version + ", which is too new")
elif not getattr(sys, "_is_gil_enabled", lambda: True)():
    print(version + ", which is a free-threaded build")
else:
    print("fits")
' 2>/dev/null
}

what_to_install() {
	if [ "$(uname -s)" = Darwin ]; then
		echo "On macOS: brew install python@3.13, or the installer of python.org."
		return
	fi
	# shellcheck disable=SC1090
	system=$([ -r "$os_release" ] && . "$os_release" && echo "${ID:-} ${VERSION_ID:-}")
	case $system in
	"debian "*) echo "On Debian 12 or newer: apt install python3 python3-venv make." ;;
	"ubuntu 1"* | "ubuntu 20"* | "ubuntu 22"* | "ubuntu 23"*)
		echo "This Ubuntu has none: install uv (https://docs.astral.sh/uv), then run" \
			'make serve PYTHON="$(uv python find 3.13)" after uv python install 3.13.' ;;
	"ubuntu "*) echo "On Ubuntu: apt install python3 python3-venv make." ;;
	"fedora "*) echo "On Fedora: dnf install python3.13 make." ;;
	*) echo "On Debian and Ubuntu: apt install python3 python3-venv make; on Fedora: dnf install" \
		"python3.13 make; on macOS: brew install python@3.13." ;;
	esac
}

asked=${1:-}
[ "$asked" ] || set -- python3 python3.13 python3.12 python3.14 python3.11
refused=
for candidate in "$@"; do
	path=$(command -v "$candidate") || continue
	verdict=$(examine "$path")
	if [ "$verdict" = fits ]; then
		echo "$path"
		exit 0
	fi
	[ "$refused" ] || refused="$path is ${verdict:-no working Python}"
done
if [ "$refused" ]; then
	echo "$needed, and $refused. $(what_to_install)" >&2
elif [ "$asked" ]; then
	echo "$needed, and there is no $asked. $(what_to_install)" >&2
else
	echo "$needed, and there is none. $(what_to_install)" >&2
fi
exit 1
