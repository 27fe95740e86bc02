"""The runner: diffusion code, networks, the engine and the service that owns the device."""
