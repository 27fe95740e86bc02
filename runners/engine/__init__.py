"""The engine loop: queue, batch scheduler, request state, cost model, output."""
