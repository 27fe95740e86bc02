"""`make container-test`: build and run the demo Bento's image without a Docker engine."""
