"""Settings that must be in place before anything here imports torch."""

from __future__ import annotations

import os

# Two threads on models this small cost ten times the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
