"""Scripts that generate the documentation's images."""
