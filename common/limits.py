"""Limits of the wire contract."""

from __future__ import annotations

MIN_SIDE = 256
"""Pixels: the shortest side of a requested image."""
MAX_SIDE = 2048
"""Pixels: the longest side of a requested image."""
SIDE_STEP = 8
"""Pixels: every requested side is a multiple, as one latent covers 8 pixels."""
MIN_STEPS = 1
MAX_STEPS = 50
MAX_GUIDANCE = 20.0
MAX_IMAGES = 4
"""Images of one request."""
MAX_LORAS = 4
"""LoRAs of one request."""
MAX_LORA_STRENGTH = 5.0
"""Largest strength of a LoRA; the smallest is its negative, because sliders act both ways."""
MAX_PROMPT = 2000
"""Characters of a prompt, and of a negative prompt."""
MAX_SEED = 2**63 - 1
RANDOM_SEEDS = 2**53 - MAX_IMAGES
"""Number of seeds that the service draws from; JSON readers with doubles keep each of them."""
MAX_BODY_BYTES = 32 * 2**20
"""Bytes of a request's body."""
MAX_PIXELS = 64_000_000
"""Pixels of an uploaded image."""
