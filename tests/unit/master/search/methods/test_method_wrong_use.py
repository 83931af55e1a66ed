"""What a search library is given by mistake: one named error each, and what passes for right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from apbmm_master.search.errors import (
    NotFiniteError,
    NotNumericError,
    OutsideBoxError,
    SettingError,
    UnknownAlgorithmError,
    WrongShapeError,
)
from apbmm_master.search.methods import create, names
from apbmm_master.search.methods.bayesian import BayesianSearch
from apbmm_master.search.methods.sequences import MOST_DIMENSIONS
from cheap_searches import DIMENSIONS, GRIDS, make


@pytest.fixture(params=names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_wrong_use_raises_named_errors(name: str) -> None:
    search = make(name)
    size = search.dimensions
    good, y = np.full(size, 0.5), [0.1, 0.2]
    with pytest.raises(NotFiniteError):
        search.tell(np.full(size, np.nan), y)
    with pytest.raises(NotFiniteError):
        search.tell(good, [0.1, np.nan])
    with pytest.raises(WrongShapeError):
        search.tell(np.full(size + 1, 0.5), y)
    with pytest.raises(WrongShapeError):
        search.tell(good, [0.1])
    with pytest.raises(OutsideBoxError):
        search.tell(np.full(size, 1.5), y)
    with pytest.raises(OutsideBoxError):
        search.reject(np.full(size, -0.1))
    with pytest.raises(OutsideBoxError):
        search.ask(1, pending=[np.full(size, 2.0)])
    with pytest.raises(SettingError):
        search.ask(-1)
    with pytest.raises(SettingError):
        search.tell(good, y, variance=[-1.0, 0.0])
    with pytest.raises(SettingError):
        make(name, no_such_setting=1)
    for count in (1.5, None, "2", True, float("nan"), [1]):
        with pytest.raises(SettingError, match="count must be a whole number"):
            search.ask(count)  # type: ignore[arg-type]
    for pending in (None, 3, "ab"):
        with pytest.raises(WrongShapeError, match="pending must be a sequence of vectors"):
            search.ask(1, pending)  # type: ignore[arg-type]
    with pytest.raises(WrongShapeError):
        search.ask(1, [[0.5] * size, [0.5] * (size + 1)])
    with pytest.raises(WrongShapeError):
        search.ask(1, [0.5] * size)
    with pytest.raises(WrongShapeError, match="not an array"):
        search.tell(good, [[0.1], [0.1, 0.2]])
    no_numbers: tuple[Any, ...] = (["a", "b"], ["0.1", "0.2"], np.array([0.1, 0.2j]), [None, {}])
    for wrong in no_numbers:
        with pytest.raises(NotNumericError):
            search.tell(good, wrong)
    for text in ("abc", b"abc", ["a"] * size):
        with pytest.raises(NotNumericError):
            search.tell(text, y)
    assert not len(search._state([]).x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tensors_are_told_without_their_gradients(dtype: torch.dtype) -> None:
    search = make("ap-bmm")
    x = torch.full((DIMENSIONS,), 0.5, dtype=dtype, requires_grad=True)
    search.tell(x, torch.tensor([0.25, 0.5], dtype=dtype, requires_grad=True))
    state = search._state([])
    np.testing.assert_array_equal(state.x, [[0.5] * DIMENSIONS])
    np.testing.assert_array_equal(state.y, [[0.25, 0.5]])
    scalars = [torch.tensor(0.5, requires_grad=True)] * 2
    with pytest.raises(NotNumericError):
        search.tell(x, torch.tensor([0.25, 0.5j]))
    with pytest.raises(WrongShapeError):
        search.tell(x, scalars)


def test_numpys_numbers_are_settings_and_counts() -> None:
    search = make("ap-bmm", samples=np.int64(16), pool_factor=np.float64(3), seed=np.int32(3))
    plain = make("ap-bmm", samples=16, pool_factor=3.0, seed=3)
    assert isinstance(search, BayesianSearch)
    assert isinstance(plain, BayesianSearch)
    assert search.settings == plain.settings
    assert type(search.settings.samples) is int
    np.testing.assert_array_equal(search.ask(np.int64(2)), plain.ask(2))  # type: ignore[arg-type]
    flag = make("ap-bmm-plus", map_fit=np.bool_(False))
    assert isinstance(flag, BayesianSearch)
    assert flag.settings.map_fit is False


def test_the_longest_vectors_are_those_of_torchs_sobol_sequence() -> None:
    assert torch.quasirandom.SobolEngine.MAXDIM == MOST_DIMENSIONS
    for method in names():
        if method in GRIDS:
            assert create(method, MOST_DIMENSIONS + 1).dimensions <= 2
        else:
            with pytest.raises(SettingError, match="dimensions is 21202, more than 21201"):
                create(method, MOST_DIMENSIONS + 1)


def test_the_largest_seed_works(name: str) -> None:
    assert len(make(name, seed=2**63 - 1, initial=1).ask(1)) == 1


def test_create_refuses_what_cannot_be() -> None:
    with pytest.raises(UnknownAlgorithmError, match="ap-bmn"):
        create("ap-bmn", 3)
    with pytest.raises(UnknownAlgorithmError):
        create(["a"], 3)  # type: ignore[arg-type]
    for seed in (-1, 2**63, 2**70):
        with pytest.raises(SettingError, match="seed is"):
            create("sobol", 3, seed=seed)
    with pytest.raises(NotNumericError):
        create("sobol", 3, importance="abc")
    with pytest.raises(SettingError):
        create("sobol", 3, budget=np.float64(3))  # type: ignore[arg-type]
    with pytest.raises(SettingError):
        create("sobol", 0)
    with pytest.raises(SettingError):
        create("sobol", 3, 1)
    with pytest.raises(SettingError):
        create("sobol", 3, budget=0)
    with pytest.raises(SettingError):
        create("ap-bmm", 3, samples=1.5)
    with pytest.raises(WrongShapeError):
        create("sobol", 3, importance=[0.1, 0.2])
    with pytest.raises(OutsideBoxError):
        create("sobol", 2, importance=[0.1, 1.2])
    with pytest.raises(NotFiniteError):
        create("sobol", 2, importance=[0.1, np.nan])
    with pytest.raises(WrongShapeError):
        create("sobol", 3, reference_point=[0.0])


@pytest.mark.parametrize(
    ("name", "hint"),
    [("AP-BMM", "did you mean ap-bmm?"), ("sobel", "did you mean sobol?"), ("evo", "methods are ")],
)
def test_the_hint_names_what_was_meant_or_all_there_are(name: str, hint: str) -> None:
    with pytest.raises(UnknownAlgorithmError) as caught:
        create(name, 3)
    assert caught.value.hint.startswith(hint)
