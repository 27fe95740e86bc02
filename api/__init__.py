"""What crosses the wire: schemas, settings, errors, pictures and middleware."""
