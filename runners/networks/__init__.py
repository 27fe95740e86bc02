"""SDXL networks (arXiv:2307.01952): loading, LoRAs, attention and depth estimators."""
