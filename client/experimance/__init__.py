"""Python client of experimance-controlnet: depth maps and prompts in, aerial pictures out."""
