"""CPU seconds for one proposal (fit + acquisition + reranking), against plain BoTorch.

    python -m benchmarks.master.proposal_speed

One core, two objectives, three pending vectors, 10 restarts, 512 raw samples, 128 Monte-Carlo
samples. Plain BoTorch is what a user would write: `fit_gpytorch_mll` on the same model (without
hyperpriors), `qLogNoisyExpectedHypervolumeImprovement` with the pending vectors, and
`optimize_acqf` once for each candidate of the pool (three for a vector), each then pending for
the next. The acquisition value compared is that of the first candidate, of both under one
qLogNEHVI with 1024 samples on our model.

With `--objectives 3` to `5` the others are accuracies of other landscapes. With `--constraints 1` a
further landscape has a limit that half of its accuracies break. BoTorch is then left out.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # one core for NumPy's and SciPy's parts as well


import numpy as np
import numpy.typing as npt
import torch
from botorch.acquisition.multi_objective import logei
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.optim import optimize_acqf
from botorch.sampling.normal import SobolQMCNormalSampler
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ZeroMean
from gpytorch.mlls import ExactMarginalLogLikelihood

from apbmm_master.search.acquisition.candidate_pool import MultiStart, optimise_pool
from apbmm_master.search.acquisition.log_nehvi import pending_aware
from apbmm_master.search.methods import create, method_class
from apbmm_master.search.prior import initial_lengthscales
from apbmm_master.search.surrogate.gaussian_process import fit
from benchmarks.search.merge_landscapes import Landscape

Array = npt.NDArray[np.float64]
PENDING, REFERENCE = 3, [-0.2, -0.2]
POOL = 3


def problem(count: int, dimensions: int, seed: int) -> tuple[Array, Array, Array, Array]:
    """`count` evaluations of a landscape, half of them near its diagonal; pending; importance."""
    landscape = Landscape("additive", seed, layers=dimensions)
    rng = np.random.default_rng(seed)
    x = rng.random((count, dimensions))
    near = rng.random((count // 2, 1)) + 0.15 * rng.normal(size=(count // 2, dimensions))
    x[: count // 2] = np.clip(near, 0.0, 1.0)
    y = np.array([landscape.measure(vector).observed for vector in x])
    return x, y, rng.random((PENDING, dimensions)), landscape.importance("informative")


def ours(
    method: str,
    count: int,
    dimensions: int,
    seed: int,
    vectors: int,
    objectives: int = 2,
    constraints: int = 0,
) -> float:
    """CPU seconds of one `ask` for `vectors` after `count` tells."""
    x, y, pending, importance = problem(count, dimensions, seed)
    settings: dict[str, Any] = {}
    more = objectives + constraints - y.shape[1]
    for number in range(more):
        other = Landscape("additive", seed + 1000 * (number + 1), layers=dimensions)
        values = np.array([other.measure(vector).observed[0] for vector in x])
        is_limit = number >= more - constraints
        y = np.column_stack([y, values - np.median(values) if is_limit else values])
    if more and method_class(method).uses_references:
        settings["ends"] = ((0.0, 1.0, *[0.0] * more), (1.0, 0.0, *[1.0] * more))
    search = create(
        method,
        dimensions,
        objectives,
        constraints=constraints,
        seed=seed,
        budget=10 * count,
        importance=importance,
        **settings,
    )
    for vector, value in zip(x, y, strict=True):
        search.tell(vector, value)
    start = time.process_time()
    assert len(search.ask(vectors, pending=list(pending))) == vectors
    return time.process_time() - start


def plain_botorch(count: int, dimensions: int, seed: int, pool: int) -> tuple[float, Array]:
    """CPU seconds of fit and pool in plain BoTorch, and the first candidate."""
    x, y, pending, _ = (torch.as_tensor(part) for part in problem(count, dimensions, seed))
    start = time.process_time()
    batch = torch.Size([2])
    model = SingleTaskGP(
        x,
        y,
        likelihood=GaussianLikelihood(batch_shape=batch),
        mean_module=ZeroMean(batch_shape=batch),
        covar_module=ScaleKernel(
            MaternKernel(nu=2.5, ard_num_dims=dimensions, batch_shape=batch), batch_shape=batch
        ),
    )
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    acquisition = logei.qLogNoisyExpectedHypervolumeImprovement(
        model, REFERENCE, x, sampler=_sampler(128), X_pending=pending
    )
    first = _optimise(acquisition, dimensions)
    found = first
    for _ in range(pool - 1):
        acquisition.set_X_pending(torch.cat([pending, found]))
        found = torch.cat([found, _optimise(acquisition, dimensions)])
    return time.process_time() - start, first.numpy()


def value_difference(count: int, dimensions: int, seed: int) -> float:
    """Log acquisition value of our optimiser's candidate minus that of optimize_acqf's.

    Both optimise on the same model; both candidates are judged by BoTorch with 1024 samples.
    """
    x, y, pending, importance = problem(count, dimensions, seed)
    model = fit(x, y, initial_lengthscales(importance)).model
    waiting, reference = torch.as_tensor(pending), torch.tensor(REFERENCE).double()
    torch.manual_seed(seed)
    lean = pending_aware(model, reference, waiting, pool=1, seed=seed)
    candidate, _ = optimise_pool(lean, 1, MultiStart(), seed=seed)
    acquisition, judge = (
        logei.qLogNoisyExpectedHypervolumeImprovement(
            model, REFERENCE, torch.as_tensor(x), sampler=_sampler(size), X_pending=waiting
        )
        for size in (128, 1024)
    )
    theirs = _optimise(acquisition, dimensions)
    with torch.no_grad():
        mine, other = judge(torch.stack([candidate, theirs]))
    return float(mine - other)


def _sampler(size: int) -> SobolQMCNormalSampler:
    return SobolQMCNormalSampler(torch.Size([size]), seed=0)


def _optimise(acquisition: torch.nn.Module, dimensions: int) -> torch.Tensor:
    bounds = torch.stack([torch.zeros(dimensions), torch.ones(dimensions)]).double()
    found, _ = optimize_acqf(acquisition, bounds, q=1, num_restarts=10, raw_samples=512)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[40, 200])
    parser.add_argument("--dimensions", nargs="+", type=int, default=[36, 128])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--objectives", type=int, default=2, choices=(2, 3, 4, 5))
    parser.add_argument("--constraints", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=["ap-bmm", "ap-bmm-plus"])
    parser.add_argument("--values", type=int, default=0, help="seeds to compare values on")
    parser.add_argument("--without-botorch", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    logei._load_attempted = True  # BoTorch would compile an extension, and time that
    ours("ap-bmm", 10, 4, 0, 1)  # first use of everything
    seeds, m = range(1, options.repeats + 1), options.objectives
    size_of_y = (m, options.constraints)
    for dimensions in options.dimensions:
        for size in options.sizes:
            print(f"\nD = {dimensions}, n = {size}: median of {options.repeats}, CPU seconds")
            for method in options.methods:
                one, four = (
                    float(
                        np.median(
                            [ours(method, size, dimensions, s, count, *size_of_y) for s in seeds]
                        )
                    )
                    for count in (1, 4)
                )
                print(f"  {method:14} one vector {one:7.2f}   four {four:7.2f} ({four / one:.1f}x)")
            if (
                size_of_y == (2, 0)
                and not options.without_botorch
                and dimensions == options.dimensions[0]
            ):
                seconds, _ = plain_botorch(size, dimensions, 1, POOL)
                print(f"  plain BoTorch  one vector {seconds:7.2f}   (pool of {POOL}, one run)")
    if options.values:
        size, dimensions = options.sizes[0], options.dimensions[0]
        gaps = [value_difference(size, dimensions, seed) for seed in range(options.values)]
        print(
            f"\nlog acquisition value minus optimize_acqf's, n = {size}: mean "
            f"{np.mean(gaps):+.4f}, worst {min(gaps):+.4f}, best {max(gaps):+.4f}"
        )


if __name__ == "__main__":
    main()
