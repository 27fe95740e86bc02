"""The embedded demo set: small networks in SDXL's shape, and the code that trained them."""
