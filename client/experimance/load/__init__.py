"""`experimance load`: how much a server takes, and how soon it answers meanwhile."""
