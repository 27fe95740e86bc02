"""Weight files of all kinds on the demo networks, and the results that they should give."""
