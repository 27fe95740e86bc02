"""The service on vast.ai: its image, its boot, and the template that rents it."""
