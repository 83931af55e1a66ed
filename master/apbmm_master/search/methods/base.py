"""The base class of every search method: the ask-and-tell interface and its bookkeeping.

A method implements `Search._propose`: which vectors to evaluate next, given a `SearchState`. The
base class does the rest: the initial design, synchronous batches, the budget, replay, and that no
vector is proposed twice.

A method must be repeatable: what it proposes depends on its `SearchState` alone. It carries no
fitted hyperparameters and no random generator from one proposal to the next. So `recall` can
restore a search from a journal without repeating its computations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from apbmm_master.search.arrays import Array, as_vector
from apbmm_master.search.errors import OutsideBoxError, SettingError, WrongShapeError
from apbmm_master.search.methods.deduplication import find_same, first_distinct
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
    from apbmm_master.search.selection import SelectionReport


@dataclass(frozen=True)
class SearchState:
    """All that a proposal may depend on.

    - `x` (n, D) and `y` (n, m): the completed evaluations, in the order in which they were told;
    - `variance` (n, m): the known noise of `y`; 0 where none is known;
    - `rejected` (r, D): the vectors whose evaluation failed for good;
    - `pending` (P, D): the vectors in flight;
    - `issued` (i, D): all vectors that `ask` returned, in order. The first `designed` of them
      belong to the initial design.
    """

    x: Array
    y: Array
    variance: Array
    rejected: Array
    pending: Array
    issued: Array
    designed: int

    @property
    def index(self) -> int:
        """Index of the next proposal. With the search's seed it seeds that proposal."""
        return len(self.issued)

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
      what the source models score at x = 0 and x = 1.

    `apbmm_master.search.methods.register` makes a method known by its name.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Any]] = NoSettings
    has_design: ClassVar[bool] = True
    synchronous: ClassVar[bool] = False
    uses_importance: ClassVar[bool] = False
    uses_activations: ClassVar[bool] = True
    uses_references: ClassVar[bool] = False

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
        self._issued: list[Array] = []
        self._outstanding: list[Array] = []
        self._designed = 0
        self._batch: _Batch | None = None

    @property
    def dimensions(self) -> int:
        """Length D of the vectors that this search asks for and is told about."""
        return self.problem.dimensions

    @property
    def exhausted(self) -> bool:
        """Whether the budget of completed evaluations is spent: nothing more will be asked."""
        return len(self._x) >= self.problem.budget

    def ask(self, count: int, pending: Sequence[npt.ArrayLike] = ()) -> list[Array]:
        """Up to `count` vectors (D,) to evaluate now.

        `pending` are the vectors in flight; what was asked for and neither told nor rejected
        counts as in flight too. Fewer vectors, or none, come back when the method has to wait for
        results (its initial design or its batch) or the budget is spent or in flight. The points of
        the initial design come back alone: an ask that wants more gets them, and the next ask what
        the method proposes beyond them, if it does not have to wait.
        """
        count = whole_number(count, "count", smallest=0)
        state = self._state(self._in_flight(pending))
        room = min(count, self._room(state))
        with torch_defaults():
            vectors = self._next(state, room) if room > 0 else []
        self._record(vectors)
        return [vector.copy() for vector in vectors]

    def recall(
        self, vectors: Sequence[npt.ArrayLike], pending: Sequence[npt.ArrayLike] = ()
    ) -> None:
        """Restore an `ask` of an earlier process that returned `vectors`, without its work.

        Leaves the search as that ask left it, so that a journal's asks, tells and rejects can be
        replayed in order and the search goes on with the vectors it would have proposed.
        """
        recalled = self._vectors(vectors, "vectors")
        state = self._state(self._in_flight(pending))
        if recalled and self.batch is not None and self._can_propose():
            self._open_batch(state)
        self._record(recalled)

    def tell(
        self, x: npt.ArrayLike, y: npt.ArrayLike, variance: npt.ArrayLike | None = None
    ) -> None:
        """Add a completed evaluation: objectives `y` (m,) at `x` (D,), asked for or not.

        An `x` that was asked for may come back rounded, to six decimals or float32: it counts as
        the vector that was asked for, so rounding changes nothing.

        `variance` (m,) is the part of this observation's noise that is known, in squared units of
        `y`; None and 0 both say that nothing is. `ap-bmm-plus` adds it to the noise that it learns;
        the methods of the papers, which have no place for it, only check it.
        """
        vector = self._vector(x)
        values = as_vector(y, "y", self.problem.objectives)
        noise = np.zeros(len(values))
        if variance is not None:
            noise = as_vector(variance, "variance", len(values)).copy()
        if (noise < 0.0).any():
            raise SettingError("variance has a negative entry")
        vector = self._settled(vector)
        if (again := find_same(self._rows(self._rejected), vector)) is not None:
            del self._rejected[again]
        self._x.append(vector)
        self._y.append(values)
        self._variance.append(noise)

    def reject(self, x: npt.ArrayLike) -> None:
        """Give up on `x` (D,): it failed for good. No observation, but it is kept clear of.

        Once is enough: a vector that was rejected or told before is left as it is.
        """
        vector = self._settled(self._vector(x))
        if find_same(self._rows([*self._x, *self._rejected]), vector) is None:
            self._rejected.append(vector)

    @abstractmethod
    def _propose(self, state: SearchState, count: int) -> list[Array]:
        """Up to `count` vectors once `_can_propose` holds; a function of `state`."""

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
        """The next points of the initial design; a rejected one is replaced by a further one."""
        return first_distinct(
            scrambled_sobol(self.dimensions, self.problem.seed), state.known, count
        )

    def _design_missing(self) -> int:
        """How many points of the initial design are still to be asked for."""
        if not self.has_design:
            return 0
        return max(0, self.problem.initial - len(self._x) - len(self._outstanding))

    def _can_propose(self) -> bool:
        """Whether the results that `_propose` needs are there.

        By default those of the whole initial design, as in Algorithm 1 of the paper.
        """
        return not self.has_design or len(self._x) >= self.problem.initial

    def _room(self, state: SearchState) -> int:
        return self.problem.budget - len(self._x) - len(state.pending)

    def _from_batch(self, state: SearchState, room: int) -> list[Array]:
        """Serve the open batch, or open the next when everything of the last one is back."""
        if (self._batch is None or self._batch.is_served) and len(state.pending):
            return []
        batch = self._open_batch(state)
        if batch.vectors is None:
            batch.vectors = self._propose(batch.state, batch.size)
            batch.size = len(batch.vectors)
        return batch.vectors[batch.served : batch.served + room]

    def _open_batch(self, state: SearchState) -> _Batch:
        """The batch in progress, or a new one of what fits in the budget."""
        if self._batch is None or self._batch.is_served:
            size = min(self.batch or 1, self.problem.budget - len(self._x))
            self._batch = _Batch(state, size)
        return self._batch

    def _record(self, vectors: Sequence[Array]) -> None:
        self._designed += min(len(vectors), self._design_missing())
        self._issued.extend(vectors)
        self._outstanding.extend(vectors)
        if self._batch is not None:
            self._batch.served += len(vectors)

    def _settled(self, vector: Array) -> Array:
        """Take `vector` out of what is outstanding, once; as it was issued, if it ever was."""
        # The vector itself, mostly among the first, is found without comparing with all.
        exact = (i for i, known in enumerate(self._outstanding) if (known == vector).all())
        if (index := next(exact, None)) is None:
            index = find_same(self._rows(self._outstanding), vector)
        if index is not None:
            return self._outstanding.pop(index)
        index = find_same(self._rows(self._issued), vector)
        return vector if index is None else self._issued[index]

    def _in_flight(self, pending: Sequence[npt.ArrayLike]) -> list[Array]:
        given, own = self._vectors(pending, "pending"), self._rows(self._outstanding)
        foreign = [vector for vector in given if find_same(own, vector) is None]
        return [*self._outstanding, *foreign]

    def _state(self, pending: Sequence[Array]) -> SearchState:
        rows, columns = self._rows, self.problem.objectives
        return SearchState(
            x=rows(self._x),
            y=np.array(self._y).reshape(-1, columns),
            variance=np.array(self._variance).reshape(-1, columns),
            rejected=rows(self._rejected),
            pending=rows(pending),
            issued=rows(self._issued),
            designed=self._designed,
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
    """A synchronous batch: the state it was opened in, its vectors, how many were served.

    After a `recall` the vectors are unknown; they are computed again from the state if the rest
    of the batch is asked for.
    """

    state: SearchState
    size: int
    served: int = 0
    vectors: list[Array] | None = None

    @property
    def is_served(self) -> bool:
        return self.served >= self.size
