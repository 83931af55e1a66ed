"""Log tokens: the mean logarithm of the number of generated tokens.

This file is CONTRIBUTING's example of a metric. A metric of the project is such an entry in
``common/apbmm_common/metrics.py``; nothing else has to be changed. A few very long answers count
for less here than in ``tokens``.
"""

from __future__ import annotations

import math

from apbmm_common.metrics import Metric, register

METRIC = register(
    Metric(
        "log_tokens",
        "the natural logarithm of the number of generated tokens",
        better="lower",
        of=lambda outcome: math.log(max(outcome.tokens, 1.0)),
        unit="log tokens",
        form=".3f",
        least=0.0,
    )
)
