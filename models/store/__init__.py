"""The Bento model store: entries, inventory, atomic writes, pruning."""
