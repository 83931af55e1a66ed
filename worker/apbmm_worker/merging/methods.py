"""The model-level merge methods by name, and their settings (Experiment 2 of the paper); pure.

``W = base + weight * Theta(TV_1, .., TV_S; density)``, tensor by tensor, with TV_i = source_i -
base. What Theta does to task vectors is in `sparsify` and `task_vectors`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from apbmm_common.errors import EvaluationError

Definition = Literal["mergekit", "paper"]


@dataclass(frozen=True, slots=True)
class Method:
    """What Theta is made of.

    ``keeps``: which elements of a task vector stay. ``elect``: whether task vectors that disagree
    with the elected sign of an element are left out of it. ``mean``: whether those that stay are
    averaged rather than added.
    """

    keeps: Literal["all", "largest", "random", "middle", "ranked"]
    elect: bool = False
    mean: bool = False


METHODS = {
    "task_arithmetic": Method("all"),
    "ties": Method("largest", elect=True, mean=True),
    "dare": Method("random"),
    "dare_ties": Method("random", elect=True),
    "breadcrumbs": Method("middle"),
    "breadcrumbs_ties": Method("middle", elect=True),
    "della": Method("ranked", elect=True, mean=True),
    "della_linear": Method("ranked"),
}


@dataclass(frozen=True, slots=True)
class Cut:
    """The largest elements of one tensor: all whose magnitude is above one, and some equal to it.

    ``bits`` are that magnitude's in float32, where equality is judged as well; the first ``equals``
    of those equal to it are among the largest.
    """

    bits: int
    equals: int


@dataclass(frozen=True, slots=True)
class TaskVectors:
    """One model-level merge.

    ``weight`` is the paper's alpha, outside Theta (mergekit's ``lambda``); ``density`` the share of
    each task vector that stays, in (0, 1]; ``seed`` decides what the random methods keep.
    ``gamma`` (breadcrumbs) is the share of largest elements that goes, ``epsilon`` (della) how far
    the probability of staying may lie from the density: at most as far as 0 and 1 allow.

    ``definition`` tells two readings apart, ``mergekit`` and ``paper`` (the method's own):

    - TIES: mergekit keeps the largest elements of each tensor, the paper those of the whole task
      vector (all tensors that are merged as task vectors). Either keeps exactly its share of them:
      of equal ones the first, by the order of the tensors and the place in each.
    - After random dropping mergekit scales by the ratio of L1 norms before and after, the papers of
      DARE and DELLA by one over each element's probability of staying.
    - DELLA's own epsilon is the whole range of probabilities, mergekit's half of it.
    - Where task vectors cancel exactly, mergekit elects +, the papers' formula (``sgn``) no sign,
      so nothing is added. (TIES' published code elects the sign that most elements have.)

    Breadcrumbs are the same by both: their paper masks each tensor by itself. Raises
    `EvaluationError` for a setting that cannot be.
    """

    method: str
    weight: float
    density: float = 1.0
    seed: int = 0
    gamma: float = 0.01
    epsilon: float = 0.15
    definition: Definition = "mergekit"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise EvaluationError(
                f"{self.method} is no model-level method", f"one of {', '.join(METHODS)}"
            )
        if not math.isfinite(self.weight):
            raise EvaluationError(f"weight is {self.weight}, not a finite number")
        if not 0.0 < self.density <= 1.0:
            raise EvaluationError(f"density is {self.density}, outside (0, 1]")
        if not 0.0 <= self.gamma < 1.0:
            raise EvaluationError(f"gamma is {self.gamma}, outside [0, 1)")
        if not 0.0 <= self.epsilon <= 1.0:
            raise EvaluationError(f"epsilon is {self.epsilon}, outside [0, 1]")

    @property
    def theta(self) -> Method:
        """What Theta is made of."""
        return METHODS[self.method]

    @property
    def trims_whole(self) -> bool:
        """Whether what stays of one tensor depends on all the others."""
        largest = self.theta.keeps == "largest"
        return largest and self.definition == "paper" and self.density < 1.0

    @property
    def half_range(self) -> float:
        """How far an element's probability of staying may lie from the density (della)."""
        wanted = self.epsilon if self.definition == "mergekit" else self.epsilon / 2
        return min(wanted, self.density, 1.0 - self.density)
