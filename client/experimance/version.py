"""The version of this package."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("experimance-client")
except PackageNotFoundError:
    # Run from its source folder.
    __version__ = "0+unknown"
