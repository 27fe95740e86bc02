"""Where weights come from: catalog, sources and the Bento model store."""
