"""Multi-objective search over merge vectors: a library without sockets, files or vLLM.

A search method proposes vectors in [0, 1]^D and is told their objectives, all to be maximised:

>>> from apbmm_master.search import create, front
>>> search = create("sobol", dimensions=3, budget=4)
>>> while vectors := search.ask(1):
...     search.tell(vectors[0], [vectors[0].mean(), 1.0 - vectors[0].mean() ** 2])
>>> search.exhausted
True

- `create` makes a search method by its name, and `names` lists the names. The result is a `Search`.
- `register` makes a method of another project known by its name (see `methods`).
- `front`, `hypervolume`, `spacing` and `contributions` measure Pareto fronts.
- `SearchError` is the base of all errors that this library raises.

Its rooms: `methods` proposes, with the models of `surrogate` and the choice of vectors by
`acquisition`; `partial_answers` estimates means from part of the answers.

Importing this package imports NumPy alone; PyTorch and BoTorch come with the methods that use them.

Other rooms also import `prior` (from discrepancies to importance), `reference_scaling` (Eq. 2),
`partial_answers` (means from part of the answers), `errors` and `arrays`.
"""

from apbmm_master.search.errors import SearchError
from apbmm_master.search.methods import Search, create, names, register
from apbmm_master.search.pareto import contributions, front, hypervolume, spacing

__all__ = [
    "Search",
    "SearchError",
    "contributions",
    "create",
    "front",
    "hypervolume",
    "names",
    "register",
    "spacing",
]
