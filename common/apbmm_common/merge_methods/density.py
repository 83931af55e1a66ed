"""The density, which most methods share."""

from apbmm_common.merge_methods.registry import Parameter

DENSITY = Parameter(
    "density",
    "share of each task vector that stays",
    default=1.0,
    without_low=True,
    grid=(1.0, 0.7, 0.9, 0.8),
)
