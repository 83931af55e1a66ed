"""Numbers printed in the paper (arXiv 2512.09972v6) that tests hold the code against."""

from __future__ import annotations

import numpy as np

# Table III: F1, F2, GPQA accuracy and tokens, AIME25 accuracy and tokens; AP-BMM's seven rows,
# MOMM's three, one of MOEA/D + CMA-ES, one of TA.
TABLE_III = np.array(
    [
        [0.9773, 0.7300, 0.6900, 5295, 0.7333, 9704],
        [0.9046, 0.7331, 0.6800, 5367, 0.7000, 9528],
        [0.6637, 0.8256, 0.6400, 3497, 0.6000, 9987],
        [0.5773, 0.8261, 0.5800, 3435, 0.6333, 10064],
        [0.2318, 1.1506, 0.4500, 724, 0.6000, 6237],
        [0.2727, 1.0674, 0.4900, 1503, 0.5666, 7100],
        [0.2454, 1.0741, 0.5000, 805, 0.5333, 7926],
        [0.8000, 0.7928, 0.7000, 5204, 0.6000, 8350],
        [0.8045, 0.7881, 0.6800, 5022, 0.6333, 8719],
        [0.7546, 0.8189, 0.6800, 4700, 0.6000, 8447],
        [1.0319, 0.5087, 0.6700, 8533, 0.8000, 10354],
        [0.4182, 0.8877, 0.6200, 1304, 0.4667, 11618],
    ]
)
AP_BMM, MOMM, MOEAD, TA = slice(0, 7), slice(7, 10), slice(10, 11), slice(11, 12)
REFERENCE_POINT = (-0.2, -0.2)
