"""The models of merges by which the Bayesian methods propose.

- `gaussian_process` fits one exact Gaussian process per objective (Eq. 15-22), with the priors of
  `hyperpriors` and the kernel of `merge_kernel` where a method asks for them.
- `principal_components` are what it models in place of objectives that are correlated.
"""

__all__ = ["gaussian_process", "hyperpriors", "merge_kernel", "principal_components"]
