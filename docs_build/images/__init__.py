"""Scripts that make the documentation's images."""
