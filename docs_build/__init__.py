"""Documentation site: pages from outside docs/, their links, generated references."""
