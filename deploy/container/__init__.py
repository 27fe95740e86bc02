"""`make container-test`: the image of the demo Bento, built and run without a Docker engine."""
