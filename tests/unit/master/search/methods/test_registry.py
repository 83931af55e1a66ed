"""A new search method is one class in one file."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import apbmm_master.search
from apbmm_common.errors import RunFileError
from apbmm_master.run_checks import load_run
from apbmm_master.search import SearchError, create, methods, names, register
from apbmm_master.search.methods import method_class
from example_search_method import RandomWalk
from rehearsal_runs import write_run_file


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))
    register(RandomWalk)


def test_a_registered_method_searches(registered: None) -> None:
    assert "random-walk" in names()
    search = create("random-walk", 3, budget=9, initial=4, seed=1, step=0.05)
    told = 0
    while vectors := search.ask(2):
        for x in vectors:
            search.tell(x, [x.mean(), 1.0 - x.mean()])
            told += 1
    assert search.exhausted
    assert told == 9


def test_a_run_file_may_name_it_and_its_settings(registered: None, tmp_path: Path) -> None:
    good = {"name": "random-walk", "settings": {"step": 0.2}}
    spec = load_run(write_run_file(tmp_path / "good.toml", algorithm=good))
    assert spec.algorithm.name == "random-walk"
    wrong = {"name": "random-walk", "settings": {"stride": 0.2}}
    with pytest.raises(RunFileError, match="random-walk has no setting 'stride'"):
        load_run(write_run_file(tmp_path / "wrong.toml", algorithm=wrong))


def test_a_name_belongs_to_one_method(registered: None) -> None:
    assert register(RandomWalk) is RandomWalk

    class Other(RandomWalk):
        """Another method of the same name."""

    with pytest.raises(SearchError, match="already a search method 'random-walk'"):
        register(Other)


def test_a_method_that_is_not_registered_is_unknown(tmp_path: Path) -> None:
    file = write_run_file(tmp_path / "run.toml", algorithm={"name": "random-walk"})
    with pytest.raises(RunFileError, match="no search method 'random-walk'"):
        load_run(file)


@pytest.mark.parametrize("name", names())
def test_a_method_is_registered_under_its_own_name(name: str) -> None:
    assert method_class(name).name == name


def test_the_example_of_the_library_runs() -> None:
    outcome = doctest.testmod(apbmm_master.search)
    assert outcome.attempted >= 4
    assert outcome.failed == 0
