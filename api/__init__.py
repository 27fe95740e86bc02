"""What crosses the wire: schemas, settings, errors, pictures and middleware."""

__version__ = "0.1.0"
