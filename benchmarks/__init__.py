"""One script per claim; each prints one JSON line last and exits non-zero below its bar."""
