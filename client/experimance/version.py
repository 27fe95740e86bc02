"""Version of the installed distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("experimance-client")
except PackageNotFoundError:
    # The source folder is on the path and the distribution is not installed.
    __version__ = "0+unknown"
