"""The base class of every search method: the ask-and-tell interface and its bookkeeping.

A method implements `Search._propose`: which vectors to evaluate next, given a `SearchState`. The
base class does the rest: the initial design, synchronous batches, the budget, replay, and that no
vector is proposed twice.

A method must be repeatable: what it proposes depends on its `SearchState` alone. It carries no
fitted hyperparameters and no random generator from one proposal to the next. So `recall` can
restore a search from a journal without repeating its computations.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from apbmm_master.search.arrays import Array, as_vector
from apbmm_master.search.errors import OutsideBoxError, SettingError, WrongShapeError
from apbmm_master.search.methods.deduplication import SAME, find_same, first_distinct
from apbmm_master.search.methods.problem import (
    NoSettings,
    Problem,
    build_settings,
    whole_number,
)
from apbmm_master.search.methods.sequences import (
    require_sobol,
    scrambled_sobol,
    torch_defaults,
)

if TYPE_CHECKING:
    from apbmm_master.search.acquisition.selection import SelectionReport


@dataclass(frozen=True)
class SearchState:
    """All that a proposal may depend on.

    - `x` (n, D), `y` (n, m) and `margins` (n, c): the evaluations that were told, with their
      objectives and by how much they meet each constraint, in the order in which each was told
      first;
    - `variance` (n, m + c): the known noise of `y` and `margins`; 0 where none is known;
    - `revision`: how often an observation was added or changed;
    - `rejected` (r, D): the vectors whose evaluation failed for good;
    - `pending` (P, D): the vectors in flight;
    - `issued` (i, D): all vectors that `ask` returned, in order. The first `designed` of them
      belong to the initial design.
    """

    x: Array
    y: Array
    margins: Array
    variance: Array
    rejected: Array
    pending: Array
    issued: Array
    designed: int
    revision: int = 0

    @property
    def index(self) -> int:
        """Index of the next proposal. With the search's seed it seeds that proposal."""
        return len(self.issued)

    @property
    def told(self) -> Array:
        """Objectives and margins (n, m + c), which a surrogate models."""
        return np.concatenate([self.y, self.margins], axis=1)

    @property
    def feasible(self) -> npt.NDArray[np.bool_]:
        """Which evaluations (n,) meet every constraint."""
        return np.asarray((self.margins >= 0.0).all(axis=1))

    @property
    def known(self) -> Array:
        """Every vector (k, D) that must not be proposed again."""
        return np.concatenate([self.x, self.rejected, self.pending, self.issued])


class Search(ABC):
    """A search method: `ask` returns vectors in [0, 1]^D, `tell` takes their objectives.

    Objectives are maximised. `batch` is None for an asynchronous method, else the size of its
    synchronous batch. `last_selection` reports the last `ask` that used a surrogate; None before.

    A method is a subclass with a `name`, a `_propose`, and these class attributes where they differ
    from the defaults here:

    - `settings_type`: the dataclass of its own settings. `settings` is an instance of it;
    - `has_design`: it begins with an initial design of `problem.initial` points;
    - `synchronous`: it proposes batches of one vector for each worker, and waits for each batch;
    - `uses_importance`: a run passes it the importance of each component (Eq. 6-12);
    - `uses_activations`: that importance includes the activation branch (Eq. 7-9); without it the
      parameter branch (Eq. 5, 6) stands alone;
    - `uses_references`: it has the settings `references` and `ends`, and a run passes it as `ends`
      what the source models score at x = 0 and x = 1;
    - `takes_estimates`: it may be told estimates of objectives, because it allows for their
      variances or looks at no objectives. Only then are merges measured in steps.

    `apbmm_master.search.methods.register` makes a method known by its name.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Any]] = NoSettings
    has_design: ClassVar[bool] = True
    synchronous: ClassVar[bool] = False
    uses_importance: ClassVar[bool] = False
    uses_activations: ClassVar[bool] = True
    uses_references: ClassVar[bool] = False
    takes_estimates: ClassVar[bool] = False

    def __init__(self, problem: Problem, settings: Mapping[str, object]) -> None:
        require_sobol(problem.dimensions)
        self.problem = problem
        self.settings: Any = build_settings(self.name, self.settings_type, settings)
        self.batch = problem.workers if self.synchronous else None
        self.last_selection: SelectionReport | None = None
        self._x: list[Array] = []
        self._y: list[Array] = []
        self._variance: list[Array] = []
        self._rejected: list[Array] = []
        self._place: dict[bytes, int] = {}
        """Of each observed vector: its place among the observations."""
        self._by_sum: list[tuple[float, int]] = []
        """The sum of each observed vector, in increasing order, with that place."""
        self._revision = 0
        self._issued: list[Array] = []
        self._exactly_issued: set[bytes] = set()
        self._outstanding: list[Array] = []
        self._designed = 0
        self._batch: _Batch | None = None

    @property
    def dimensions(self) -> int:
        """Length D of this search's vectors."""
        return self.problem.dimensions

    @property
    def exhausted(self) -> bool:
        """Whether as many vectors were told as the budget has, so that `ask` returns no more."""
        return self.problem.budget is not None and len(self._x) >= self.problem.budget

    @property
    def uses_outcomes(self) -> bool:
        """Whether a run tells anew what the outcomes of single answers show of observations."""
        return False

    def ask(self, count: int, pending: Sequence[npt.ArrayLike] = ()) -> list[Array]:
        """Up to `count` vectors (D,) to evaluate now.

        `pending` are the vectors in flight. A vector that an earlier `ask` returned is in flight
        until it is told or rejected, also when `pending` leaves it out. One that was told is not in
        flight, although more may be measured of it.

        Fewer than `count` vectors, or none, are returned when the method has to wait for results
        (of its initial design or its batch), and when the rest of the budget is spent or in flight.
        An `ask` that reaches the end of the initial design returns its points alone; what the
        method proposes beyond them comes with the next `ask`.

        Raises SettingError for a count that is not a whole number of at least 0, and for vectors
        what `as_vector` raises, and OutsideBoxError.
        """
        count = whole_number(count, "count", smallest=0)
        state = self._state(self._in_flight(pending))
        room = min(count, self._left() - len(state.pending))
        with torch_defaults():
            vectors = self._next(state, room) if room > 0 else []
        self._record(vectors)
        return [vector.copy() for vector in vectors]

    def recall(
        self, vectors: Sequence[npt.ArrayLike], pending: Sequence[npt.ArrayLike] = ()
    ) -> None:
        """Repeat an `ask` of an earlier process that returned `vectors`, without its computations.

        The search is then as that `ask` left it. So the asks, tells and rejects of a journal can be
        replayed in order, and the search goes on with the vectors that it would have proposed.
        """
        recalled = self._vectors(vectors, "vectors")
        state = self._state(self._in_flight(pending))
        if recalled and self.batch is not None and self._can_propose():
            self._open_batch(state)
        self._record(recalled)

    def tell(
        self, x: npt.ArrayLike, y: npt.ArrayLike, variance: npt.ArrayLike | None = None
    ) -> None:
        """Add an evaluation: objectives `y` (m,) at `x` (D,), whether asked for or not.

        With constraints `y` is (m + c,): after the objectives come the margins by which they are
        met, below 0 where one is broken. Of the methods without a surrogate only `moead-cmaes`
        looks at these.

        An `x` that was told before has its observation replaced, as by a full measurement after an
        estimate. It counts once.

        An `x` that `ask` returned may be rounded, to six decimals or float32: the search takes it
        for the vector that it returned, so that rounding changes nothing.

        `variance`, in the shape of `y`, is the known part of its noise, in squared units of `y`.
        None and 0 mean that none is known. `ap-bmm-plus` adds it to what it learns. The methods
        of the papers use it with the setting `outcomes`, else they only check it.

        Raises SettingError for a negative variance, and what `ask` raises for vectors.
        """
        vector = self._vector(x)
        values = as_vector(y, "y", self.problem.told)
        noise = np.zeros(len(values))
        if variance is not None:
            noise = as_vector(variance, "variance", len(values)).copy()
        if (noise < 0.0).any():
            raise SettingError("variance has a negative entry")
        vector = self._settled(vector)
        place = self._place_of(vector)
        if place is not None:
            if (values != self._y[place]).any() or (noise != self._variance[place]).any():
                self._y[place], self._variance[place] = values, noise
                self._revision += 1
            return
        if (again := find_same(self._rows(self._rejected), vector)) is not None:
            del self._rejected[again]
        self._place[vector.tobytes()] = len(self._x)
        insort(self._by_sum, (float(vector.sum()), len(self._x)))
        self._x.append(vector)
        self._y.append(values)
        self._variance.append(noise)
        self._revision += 1

    def reject(self, x: npt.ArrayLike) -> None:
        """Give up on `x` (D,), whose evaluation failed for good, so that it is not proposed again.

        It is no observation. For a vector that was told or rejected before this changes nothing.
        """
        vector = self._settled(self._vector(x))
        known = self._place_of(vector) is not None
        if not known and find_same(self._rows(self._rejected), vector) is None:
            self._rejected.append(vector)

    def predicted(self, x: npt.ArrayLike) -> tuple[Array, Array] | None:  # noqa: ARG002
        """Mean and standard deviation (b, m + c) at `x` (b, D), by all that was told.

        None for a method without a surrogate, and while too little was told.
        """
        return None

    @abstractmethod
    def _propose(self, state: SearchState, count: int) -> list[Array]:
        """Up to `count` vectors that depend on `state` alone. Called once `_can_propose` holds."""

    def _next(self, state: SearchState, room: int) -> list[Array]:
        missing = self._design_missing()
        if missing:
            return self._design(state, min(room, missing))
        if not self._can_propose():
            return []
        if self.batch is not None:
            return self._from_batch(state, room)
        return self._propose(state, room)

    def _design(self, state: SearchState, count: int) -> list[Array]:
        """The next points of the initial design. A rejected point is replaced by a further one."""
        return first_distinct(
            scrambled_sobol(self.dimensions, self.problem.seed), state.known, count
        )

    def _design_missing(self) -> int:
        """How many points of the initial design `ask` has not returned yet."""
        if not self.has_design:
            return 0
        return max(0, self.problem.initial - len(self._x) - len(self._outstanding))

    def _can_propose(self) -> bool:
        """Whether the results that `_propose` needs are there.

        By default those of the whole initial design, as in Algorithm 1 of the paper.
        """
        return not self.has_design or len(self._x) >= self.problem.initial

    def _left(self) -> int:
        """How many of the budget's evaluations are not completed."""
        return sys.maxsize if self.problem.budget is None else self.problem.budget - len(self._x)

    def _from_batch(self, state: SearchState, room: int) -> list[Array]:
        """The next vectors of the open batch, or of a new one when the last one is completed."""
        if (self._batch is None or self._batch.is_served) and len(state.pending):
            return []
        batch = self._open_batch(state)
        if batch.vectors is None:
            batch.vectors = self._propose(batch.state, batch.size)
            batch.size = len(batch.vectors)
        return batch.vectors[batch.served : batch.served + room]

    def _open_batch(self, state: SearchState) -> _Batch:
        """The batch in progress, or a new one.

        It may be larger than the rest of the budget, which a resumed run may have raised: a batch
        of another size would have other vectors, and some might be near to those of the first one.
        """
        if self._batch is None or self._batch.is_served:
            self._batch = _Batch(state, self.batch or 1)
        return self._batch

    def _record(self, vectors: Sequence[Array]) -> None:
        self._designed += min(len(vectors), self._design_missing())
        self._issued.extend(vectors)
        self._exactly_issued.update(vector.tobytes() for vector in vectors)
        self._outstanding.extend(vectors)
        if self._batch is not None:
            self._batch.served += len(vectors)

    def _settled(self, vector: Array) -> Array:
        """Take `vector` out of the outstanding ones; returns it as it was issued, if it was."""
        # Most are exactly equal to one of the first, which takes no comparison with all.
        exact = (i for i, known in enumerate(self._outstanding) if (known == vector).all())
        if (index := next(exact, None)) is None:
            if vector.tobytes() in self._exactly_issued:
                return vector
            index = find_same(self._rows(self._outstanding), vector)
        return self._as_issued(vector) if index is None else self._outstanding.pop(index)

    def _as_issued(self, vector: Array) -> Array:
        """The issued vector that `vector` is but for rounding; itself where there is none."""
        if vector.tobytes() in self._exactly_issued:
            return vector
        index = find_same(self._rows(self._issued), vector)
        return vector if index is None else self._issued[index]

    def _place_of(self, vector: Array) -> int | None:
        """The place among the observations of a vector as `_settled` returns it."""
        key = vector.tobytes()
        if key in self._place or key in self._exactly_issued:
            return self._place.get(key)
        # The sums of vectors that are the same but for rounding are close to each other.
        total, apart = float(vector.sum()), 2.0 * SAME * self.dimensions
        low = bisect_left(self._by_sum, (total - apart, -1))
        high = bisect_left(self._by_sum, (total + apart, -1))
        places = [place for _, place in self._by_sum[low:high]]
        index = find_same(self._rows([self._x[place] for place in places]), vector)
        return None if index is None else places[index]

    def _in_flight(self, pending: Sequence[npt.ArrayLike]) -> list[Array]:
        given = self._vectors(pending, "pending")
        own = self._rows(self._outstanding)
        foreign = [
            vector
            for vector in given
            if find_same(own, vector) is None and self._place_of(self._as_issued(vector)) is None
        ]
        return [*self._outstanding, *foreign]

    def _state(self, pending: Sequence[Array]) -> SearchState:
        rows = self._rows
        columns, objectives = self.problem.told, self.problem.objectives
        told = np.array(self._y).reshape(-1, columns)
        return SearchState(
            x=rows(self._x),
            y=told[:, :objectives],
            margins=told[:, objectives:],
            variance=np.array(self._variance).reshape(-1, columns),
            rejected=rows(self._rejected),
            pending=rows(pending),
            issued=rows(self._issued),
            designed=self._designed,
            revision=self._revision,
        )

    def _rows(self, vectors: Sequence[Array]) -> Array:
        return np.array(vectors, dtype=np.float64).reshape(-1, self.dimensions)

    def _vectors(self, values: Sequence[npt.ArrayLike], what: str) -> list[Array]:
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise WrongShapeError(f"{what} must be a sequence of vectors, not {values!r}")
        return [self._vector(vector) for vector in values]

    def _vector(self, x: npt.ArrayLike) -> Array:
        vector = as_vector(x, "a decision vector", self.dimensions).copy()
        if ((vector < 0.0) | (vector > 1.0)).any():
            raise OutsideBoxError("a decision vector has a component outside [0, 1]")
        return vector


@dataclass
class _Batch:
    """A synchronous batch: the state it was opened in, its vectors, and how many were returned.

    After a `recall` the vectors are unknown. They are computed again from the state when the rest
    of the batch is asked for.
    """

    state: SearchState
    size: int
    served: int = 0
    vectors: list[Array] | None = None

    @property
    def is_served(self) -> bool:
        return self.served >= self.size
