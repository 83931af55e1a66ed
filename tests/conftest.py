"""Settings for all tests, made before anything heavy is imported."""

from __future__ import annotations

import os

# On matrices this small two threads cost several times the time of one.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
