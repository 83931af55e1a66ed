"""How much two models differ, layer by layer: the measurement that the prior is made from.

Other rooms call `measure.measure`. `activations` runs the models with transformers; both modules
import torch, so nothing is imported here.
"""

__all__ = ["measure"]
