"""LoRAs and related adapters: files, sets of them, and how they act on a network."""
