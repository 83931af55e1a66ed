"""Hashes of JSON values, the same on every host and in every version."""

from __future__ import annotations

import hashlib
import json


def canonical_hash(value: object) -> str:
    """SHA-256 (hex) of a JSON value in canonical form: sorted keys, shortest round-trip floats."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
