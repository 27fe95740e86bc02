"""The documents' site: pages from outside docs/, links between them, generated references."""
