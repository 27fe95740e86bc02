"""Training data of the demo set: terrain, eras, prompts and renderings."""
