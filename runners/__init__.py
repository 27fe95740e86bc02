"""The runner: diffusion code, networks, the engine and the service that owns the device."""

import os

SPIN_COUNT = "10000"

# libgomp reads the variable once, so it must be set before torch loads libgomp. By default a
# waiting OpenMP thread spins for its whole time slice. On a busy machine that starves the rest of
# its team, because another program occupies the core that they need.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
