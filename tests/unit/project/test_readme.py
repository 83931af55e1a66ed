"""What the README says that can be checked."""

from __future__ import annotations

import re

from apbmm_master.search.methods import names
from commands import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_table_of_methods_is_complete() -> None:
    table = README.split("| name | method |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`([^`]+)`", " ".join(cells))) == sorted(names())


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("https://"):
            assert (REPOSITORY / target).exists(), target


def test_sections_are_in_order() -> None:
    sections = re.findall(r"^## (.*)$", README, flags=re.MULTILINE)
    assert sections == [
        "Five minutes without a GPU",
        "A real run",
        "Reading the results",
        "Operating it",
        "How it works",
        "Benchmarks",
        "Developing",
        "Citing",
    ]
