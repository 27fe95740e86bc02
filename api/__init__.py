"""Public API: HTTP layer, handlers, schemas, image decoding and runner client."""
