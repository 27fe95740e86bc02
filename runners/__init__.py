"""What runs on the device: the engine, its parts, and the service that owns them."""

import os

SPIN_COUNT = "10000"

# Before torch loads libgomp, which reads it once. libgomp's own default lets a thread that waits
# for its team spin through its whole time slice, while on a busy machine another program has the
# core that the rest of the team needs.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
