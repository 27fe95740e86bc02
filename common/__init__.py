"""Code shared by all processes: settings, limits, runner protocol, logs and traces."""

__version__ = "0.1.0"
