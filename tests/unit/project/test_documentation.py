"""What README, CONTRIBUTING and docs say that can be checked without building the documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import get_args

import pytest

from apbmm.keys import new_worker
from apbmm_master.journal.events import (
    AttemptEvent,
    EvaluationEvent,
    RunEvent,
    SpaceEvent,
    WorkerEvent,
)
from apbmm_master.journal.lifecycle import ATTEMPT_MOVES, EVALUATION_MOVES
from apbmm_master.search.methods import names
from apbmm_worker.app import WorkerFlags
from apbmm_worker.daemon.options import default_name
from commands import REPOSITORY

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "benchmarks/README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
FOLDERS = (
    "benchmarks",
    "cli",
    "common",
    "docs",
    "examples",
    "master",
    "systemd",
    "tests",
    "worker",
)
SOURCE = re.compile(r"`([\w./-]+/[\w.-]+|[\w-]+\.py)`")


def page_name(page: Path) -> str:
    """The page's path in the repository."""
    return page.relative_to(REPOSITORY).as_posix()


def prose(page: Path) -> str:
    """The text of a page without its fenced blocks."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def methods_named(page: Path) -> set[str]:
    """The backticked names in the first column of the page's table of methods."""
    table = page.read_text(encoding="utf-8").split("| name | method |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`([^`]+)`", " ".join(cells)))


def test_the_readme_fits_a_reading() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) < 200


def test_the_gain_in_the_readme_is_what_was_measured() -> None:
    found = json.loads((REPOSITORY / "examples/demo_pair/measured.json").read_text())
    pairs = [(each["fresh"]["merge"], each["fresh"]["line"]) for each in found["dominating"]]
    more = [merge["accuracy"] - line["accuracy"] for merge, line in pairs]
    fewer = [1 - merge["tokens"] / line["tokens"] for merge, line in pairs]
    assert min(more) >= 0
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert f"up to {100 * max(more):.1f} points more" in readme
    assert f"for {100 * min(fewer):.0f} to {100 * max(fewer):.0f} % fewer tokens" in readme


@pytest.mark.parametrize("page", ["README.md", "docs/methods.md"])
def test_the_tables_of_methods_are_complete(page: str) -> None:
    assert methods_named(REPOSITORY / page) == set(names())


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_source_files_that_are_named_exist(page: Path) -> None:
    """A named path is one from the top, or the end of one, as in `search/prior.py`."""
    tree = [
        path.relative_to(REPOSITORY).as_posix()
        for folder in FOLDERS
        for path in (REPOSITORY / folder).rglob("*")
    ]
    for name in SOURCE.findall(prose(page)):
        known = any(f"/{path}".endswith(f"/{name.strip('/')}") for path in [*tree, *FOLDERS])
        assert known or not re.search(
            r"\.(py|toml|md|yaml|sbatch)$|^(master|worker|common|cli)/", name
        ), name


def test_the_index_of_benchmarks_is_complete() -> None:
    """Every module is named in its room's section, every file of results in a row or by a row."""
    benchmarks = REPOSITORY / "benchmarks"
    head, *sections = re.split(r"^## (?=\w+/)", prose(benchmarks / "README.md"), flags=re.MULTILINE)
    found = {text.split("/")[0]: text for text in sections}
    modules = [path for path in benchmarks.rglob("*.py") if path.stem != "__init__"]
    for path in modules:
        named = head if path.parent == benchmarks else found[path.parent.name]
        assert re.search(rf"`{path.stem}(\.py)?`", named), path
    index = "".join(sections)
    rows = re.findall(r"^\| `(\w+)` \|", index, flags=re.MULTILINE)
    assert set(rows) <= {path.stem for path in modules}
    for path in (benchmarks / "results").iterdir():
        assert f"`{path.name}`" in index or path.stem in rows, path


def test_examples_of_files_are_those_that_tests_run() -> None:
    pages = ("CONTRIBUTING.md", "docs/models-and-data.md")
    text = "".join((REPOSITORY / page).read_text(encoding="utf-8") for page in pages)
    blocks = re.findall(
        r"`(tests/support/example_\w+\.py)`:\n\n```python\n(.*?)\n```", text, re.DOTALL
    )
    assert len(blocks) == len(list((REPOSITORY / "tests/support").glob("example_*.py")))
    for path, block in blocks:
        assert block in (REPOSITORY / path).read_text(encoding="utf-8"), path


def test_what_is_installed_is_this_checkout() -> None:
    """No package index has apbmm, so nothing says to install it by its name."""
    folders = ("cli", "common", "master", "worker", "examples", "docs")
    paths = [path for folder in folders for path in (REPOSITORY / folder).rglob("*")]
    texts = [path for path in paths if path.suffix in (".py", ".md", ".ipynb", ".toml")]
    assert len(texts) > 400
    found = [path for path in texts if "apbmm[" in path.read_text(encoding="utf-8")]
    assert found == []


def test_keys_are_made_for_the_names_that_workers_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key for another name is of no use to a worker that is started without --name."""
    monkeypatch.setattr("socket.gethostname", lambda: "hostA")
    name = default_name("0")
    assert name in (WorkerFlags.__doc__ or "")
    assert name in (new_worker.__doc__ or "")
    for page in ("docs/getting-started.md", "docs/security.md"):
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        made = re.findall(r"apbmm keys (?:new-worker|revoke) ([^\s;`]+)", text)
        assert made, page
        rehearsed = [each for each in made if each == default_name("rehearsal") + "-1"]
        others = {each[5:].replace("$card", "0") for each in made if each not in rehearsed}
        assert others == {name[5:]}, page


@pytest.mark.parametrize(
    ("name", "moves"), [("evaluation", EVALUATION_MOVES), ("attempt", ATTEMPT_MOVES)]
)
def test_the_protocol_draws_every_move_of_the_state_machines(
    name: str, moves: Mapping[StrEnum, frozenset[StrEnum]]
) -> None:
    page = (REPOSITORY / "docs/protocol.md").read_text(encoding="utf-8")
    drawn = re.findall(r"(\w+) --> (\w+)", page.split(f'state "{name}" as')[1].split("```")[0])
    assert set(drawn) == {(old.name, new.name) for old in moves for new in moves[old]}


def test_the_protocol_lists_every_event_of_the_journal() -> None:
    table = (REPOSITORY / "docs/protocol.md").read_text().split("| event |")[1].split("\n\n")[0]
    listed = re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines()))
    groups = (RunEvent, SpaceEvent, EvaluationEvent, AttemptEvent, WorkerEvent)
    events = [event.__name__ for group in groups for event in get_args(group)]
    assert sorted(listed) == sorted(events)
