"""What `register` refuses, and what the shipped entries say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from apbmm_common.merge_methods import (
    LINEAR,
    METHODS,
    MergeMethod,
    Parameter,
    TaskVector,
    Tensor,
    register,
    searched_as,
)
from apbmm_common.merge_methods.dare import dare


def doubled(task_vectors: Sequence[TaskVector], *, factor: float) -> Tensor:
    return factor * task_vectors[0].values


FACTOR = Parameter("factor", "a factor", default=0.5)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (MergeMethod("ties", "", doubled, (FACTOR,)), "there is a merge method ties already"),
        (MergeMethod(LINEAR, "", doubled, (FACTOR,)), "there is a merge method linear already"),
        (MergeMethod("new", "", doubled, (FACTOR,), search="ta"), "there is a merge method new"),
        (MergeMethod("new", "", doubled), r"takes \['factor'\], its parameters are \[\]"),
        (MergeMethod("new", "", dare, (FACTOR,)), r"takes \['density'\]"),
        (
            MergeMethod("new", "", doubled, (Parameter("factor", "", default=3.0),)),
            "factor has values beyond its interval",
        ),
        (
            MergeMethod("new", "", doubled, (Parameter("factor", "", 1.0, high=9.0, grid=(2.0,)),)),
            r"the grid of factor is outside \[0, 1\]",
        ),
    ],
)
def test_an_entry_that_cannot_work_is_refused(method: MergeMethod, words: str) -> None:
    before = dict(METHODS)
    with pytest.raises(ValueError, match=words):
        register(method)
    assert before == METHODS


def test_values_are_completed_and_checked() -> None:
    method = MergeMethod("new", "", doubled, (FACTOR, Parameter("open", "", 0.5, without_low=True)))
    assert method.complete({"open": 1}) == {"factor": 0.5, "open": 1.0}
    assert list(method.faults({"factor": 0.0, "open": 0.0, "other": 1.0})) == [
        "open is 0.0, outside (0, 1]",
        "other has no effect on new",
    ]
    assert list(method.faults({"factor": float("nan")})) == ["factor is nan, outside [0, 1]"]


def test_searches_have_the_names_of_the_paper() -> None:
    assert {"ta", "ties", "dare", "breadcrumbs", "della"} <= {
        m.search_name for m in METHODS.values()
    }
    assert searched_as("ta") is METHODS["task_arithmetic"]
    assert searched_as("task_arithmetic") is None
    assert searched_as("ap-bmm") is None
    assert all(method.citation for method in METHODS.values())


def test_the_entries_are_read_without_torch() -> None:
    program = "import sys, apbmm_common.merge_methods; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
