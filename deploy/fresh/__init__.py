"""`make fresh-test`: README's instructions on a minimal Debian with Debian's own Python."""
