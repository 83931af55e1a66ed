"""Which surrogate predicts real merges better: of the objectives alone, or of their components?

    python -m benchmarks.real_merges.surrogates benchmarks/results/second_pair_campaigns.jsonl

The merges are those of a file of campaigns (`searches`), so that no engine is needed. Both models
of `ap-bmm-plus` (without a layer importance, and told no noise) are fitted to the first merges of
one of its campaigns, and predict merges of other seeds, of all methods with a surrogate, from the
thirteenth on. Per model: the root mean square error of either objective and of their sum, and the
mean log density of both together, of standardised objectives. The difference is paired by campaign,
with a 95 % interval (Student's t).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apbmm_master.search.methods import create
from apbmm_master.search.methods.ap_bmm_plus import ApBmmPlus
from apbmm_master.search.methods.bayesian import one_thread
from apbmm_master.search.surrogate.gaussian_process import Surrogate
from benchmarks.real_merges.searches import INITIAL, lines_of
from benchmarks.tables import command_line, half_width, made_by, markdown

Array = npt.NDArray[np.float64]
METHOD = "ap-bmm-plus"
TESTED_ON = (METHOD, "ap-bmm", "qnehvi", "botorch", "botorch,references")
FITTED_TO = (8, 12, 20, 38)
UNSEEN, LATER = 300, 12
MODELS = {"each objective": 0, "their components": 2}


def fitted(x: Array, y: Array, correlated: int) -> Surrogate:
    """One of the two models, fitted to merges (n, D) and their objectives (n, 2)."""
    search = create(METHOD, x.shape[1], initial=INITIAL)
    assert isinstance(search, ApBmmPlus)
    for vector, objectives in zip(x, y, strict=True):
        search.tell(vector, objectives)
    with one_thread():
        return search._fit(search._state(()), correlated)


def errors(surrogate: Surrogate, x: Array, y: Array) -> Array:
    """Root mean square errors of both objectives and of their sum, and the mean log density."""
    with one_thread():
        missed = y - surrogate.mean(x)
        densities = [surrogate.log_density(x[i : i + 1], y[i : i + 1]).sum() for i in range(len(x))]
    squared = np.column_stack([missed, missed.sum(axis=1)]) ** 2
    return np.append(np.sqrt(squared.mean(axis=0)), np.mean(densities))


def unseen(
    campaigns: Sequence[Mapping[str, Any]], fitted_to: Mapping[str, Any]
) -> tuple[Array, Array]:
    """Merges (b, D) of other seeds, and their objectives, without those of the campaign itself."""
    known = {tuple(x) for x in fitted_to["x"]}
    found = {
        tuple(x): y
        for each in campaigns
        if each["method"] in TESTED_ON and each["seed"] != fitted_to["seed"]
        for x, y in zip(each["x"][LATER:], each["y"][LATER:], strict=True)
        if tuple(x) not in known
    }
    order = np.random.default_rng(0).permutation(len(found))[:UNSEEN]
    vectors = sorted(found)
    return np.array([vectors[i] for i in order]), np.array([found[vectors[i]] for i in order])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("campaigns", type=Path, help="campaigns of one pair, as `searches` keeps")
    campaigns = lines_of(parser.parse_args().campaigns)
    rows = [
        ["merges", "model of", "error, reasoning", "cost", "their sum", "log density", "more by"],
    ]
    own = [each for each in campaigns if each["method"] == METHOD]
    for count in FITTED_TO:
        found: dict[str, list[Array]] = {name: [] for name in MODELS}
        for each in own:
            tests = unseen(campaigns, each)
            data = np.array(each["x"][:count]), np.array(each["y"][:count])
            for name, correlated in MODELS.items():
                found[name].append(errors(fitted(*data, correlated), *tests))
        first, *_ = found.values()
        for name, values in found.items():
            more = np.array(values)[:, -1] - np.array(first)[:, -1]
            gain = "" if values is first else f"{more.mean():+.2f} ± {half_width(more):.2f}"
            means = [f"{mean:.3f}" for mean in np.mean(values, axis=0)]
            rows.append([str(count), name, *means, gain])
    print(made_by(command_line()) + f"\n{len(own)} campaigns\n\n" + markdown(rows))


if __name__ == "__main__":
    main()
