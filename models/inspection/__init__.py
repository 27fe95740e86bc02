"""Description of weight files: kind, model, parts, metadata, and the catalog entry for each."""
