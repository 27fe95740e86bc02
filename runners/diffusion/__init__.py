"""Conditioning, denoising, schedulers and the VAE."""
