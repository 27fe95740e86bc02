"""What runs on the device: the engine, its parts, and the service that owns them."""
