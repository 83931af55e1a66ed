"""Searches by other people's tools, unmodified and with their own defaults, as ask and tell.

Each maximises two objectives over [0, 1]^D. It is told the initial design, and the two references
where a campaign says so, as results that it did not ask for. Where a tool takes a reference point
of the hypervolume it is told that of Eq. 2's objectives.

- `botorch`: `SingleTaskGP` and `qLogNoisyExpectedHypervolumeImprovement`, with the numbers of its
  tutorial on several objectives (128 samples, 10 restarts, 512 raw samples);
- `optuna-tpe`, `optuna-nsga2`, `optuna-gp`: the samplers of Optuna;
- `ax`: the client of Ax with the generation strategy that it chooses; its objective thresholds
  are the reference point.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
REFERENCE = (-0.2, -0.2)
SAMPLES, RESTARTS, RAW_SAMPLES = 128, 10, 512


class PeerSearch(Protocol):
    """One vector after another."""

    def ask(self) -> Array:
        """The next vector (D,)."""

    def tell(self, x: Array, y: Array) -> None:
        """Objectives `y` (2,) at `x`, whether it was asked for or not."""


class BoTorchSearch:
    """The models and the acquisition of BoTorch's tutorial on noisy objectives."""

    def __init__(self, dimensions: int, seed: int) -> None:
        self._dimensions, self._seed = dimensions, seed
        self._x: list[Array] = []
        self._y: list[Array] = []

    def tell(self, x: Array, y: Array) -> None:
        """Add an observation."""
        self._x.append(x)
        self._y.append(y)

    def ask(self) -> Array:
        """Fit, and maximise the acquisition."""
        import torch
        from botorch import fit_gpytorch_mll
        from botorch.acquisition.multi_objective.logei import (
            qLogNoisyExpectedHypervolumeImprovement,
        )
        from botorch.models import ModelListGP, SingleTaskGP
        from botorch.models.transforms import Standardize
        from botorch.optim import optimize_acqf
        from botorch.sampling import SobolQMCNormalSampler
        from gpytorch.mlls import SumMarginalLogLikelihood

        torch.manual_seed(1000 * self._seed + len(self._x))
        x = torch.tensor(np.stack(self._x), dtype=torch.float64)
        y = torch.tensor(np.stack(self._y), dtype=torch.float64)
        models = [SingleTaskGP(x, y[:, [k]], outcome_transform=Standardize(1)) for k in (0, 1)]
        model = ModelListGP(*models)
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            model,
            list(REFERENCE),
            x,
            sampler=SobolQMCNormalSampler(torch.Size([SAMPLES])),
            prune_baseline=True,
        )
        bounds = torch.stack([torch.zeros(self._dimensions), torch.ones(self._dimensions)])
        found, _ = optimize_acqf(
            acquisition, bounds.double(), 1, num_restarts=RESTARTS, raw_samples=RAW_SAMPLES
        )
        return np.clip(np.asarray(found[0]), 0.0, 1.0)


class OptunaSearch:
    """A study of Optuna with one of its samplers."""

    def __init__(self, dimensions: int, seed: int, sampler: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        samplers = optuna.samplers
        kinds = {
            "tpe": samplers.TPESampler,
            "nsga2": samplers.NSGAIISampler,
            "gp": samplers.GPSampler,
        }
        self._study = optuna.create_study(
            directions=["maximize", "maximize"], sampler=kinds[sampler](seed=seed)
        )
        uniform = optuna.distributions.FloatDistribution(0.0, 1.0)
        self._space = {f"x{i}": uniform for i in range(dimensions)}
        self._created: Callable[..., Any] = optuna.trial.create_trial
        self._open: Any = None

    def ask(self) -> Array:
        """The parameters of the next trial."""
        self._open = self._study.ask(self._space)
        return np.array([self._open.params[name] for name in self._space])

    def tell(self, x: Array, y: Array) -> None:
        """Complete the open trial, or add one that was not asked for."""
        values = [float(value) for value in y]
        if self._open is not None:
            self._study.tell(self._open, values)
            self._open = None
            return
        parameters = dict(zip(self._space, map(float, x), strict=True))
        trial = self._created(params=parameters, distributions=self._space, values=values)
        self._study.add_trial(trial)


class AxSearch:
    """An experiment of Ax."""

    def __init__(self, dimensions: int, seed: int) -> None:
        from ax.api.client import Client
        from ax.api.configs import RangeParameterConfig

        logging.getLogger("ax").setLevel(logging.ERROR)
        self._client = Client(random_seed=seed)
        self._names = [f"x{i}" for i in range(dimensions)]
        self._client.configure_experiment(
            parameters=[
                RangeParameterConfig(name=name, parameter_type="float", bounds=(0.0, 1.0))
                for name in self._names
            ]
        )
        self._client.configure_optimization(
            objective="reasoning, saving",
            outcome_constraints=[f"reasoning >= {REFERENCE[0]}", f"saving >= {REFERENCE[1]}"],
        )
        self._open: int | None = None

    def ask(self) -> Array:
        """The parameters of the next trial."""
        ((self._open, parameters),) = self._client.get_next_trials(max_trials=1).items()
        return np.array([parameters[name] for name in self._names])

    def tell(self, x: Array, y: Array) -> None:
        """Complete the open trial, or attach one that was not asked for."""
        index, self._open = self._open, None
        if index is None:
            index = self._client.attach_trial(dict(zip(self._names, map(float, x), strict=True)))
        data = {"reasoning": float(y[0]), "saving": float(y[1])}
        self._client.complete_trial(index, raw_data=data)


PEERS: dict[str, Callable[[int, int], PeerSearch]] = {
    "botorch": BoTorchSearch,
    "optuna-tpe": lambda dimensions, seed: OptunaSearch(dimensions, seed, "tpe"),
    "optuna-nsga2": lambda dimensions, seed: OptunaSearch(dimensions, seed, "nsga2"),
    "optuna-gp": lambda dimensions, seed: OptunaSearch(dimensions, seed, "gp"),
    "ax": AxSearch,
}


def peer(name: str, dimensions: int, seed: int) -> PeerSearch:
    """The tool's search, without the warnings that it prints."""
    warnings.filterwarnings("ignore")
    return PEERS[name](dimensions, seed)
