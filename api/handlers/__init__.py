"""Route handlers: resolve, decode, call the runner, build the response."""
