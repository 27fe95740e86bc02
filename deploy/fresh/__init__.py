"""`make fresh-test`: what README promises, on a bare Debian with nothing but its own Python."""
