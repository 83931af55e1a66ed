"""The commented run file that `apbmm init` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apbmm.check.view import size
from apbmm.init.benchmarks import MANY, SAMPLE, Guess
from apbmm.init.limits import Limits
from apbmm.init.models import THOUGHTS, Model, Source
from apbmm.init.objectives import MOST, PAPER_OBJECTIVES, Objective
from apbmm_common.run_file import LEAST_SOURCES

SCHEMA_FILE = "apbmm.schema.json"
MOST_AT_ONCE = 256
"""vLLM computes no more answers at once by default on most cards."""
LEAST_TO_SHARE = 100
"""With fewer questions a confirmation would have under 30, and the search under 70."""
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
SCALED_BY_VALUES = {
    "right": ('metric = "accuracy"', "scale = [0.2, 0.9]  # these values score 0 and 1"),
    "short": (
        'metric = "tokens"',
        'direction = "minimise"',
        "target = 500  # scores 1; the source that is worst scores 0",
    ),
}
"""Objectives that need no two sources which differ, as examples, by name."""


@dataclass(frozen=True)
class Proposal:
    """Everything that the run file says."""

    name: str
    sources: tuple[Source, ...]
    """The last one is the anchor."""
    benchmarks: tuple[Guess, ...]
    objectives: tuple[Objective, ...]
    """None where they are the paper's."""
    limits: Limits
    evaluations: int

    @property
    def names(self) -> list[str]:
        """The names of the sources."""
        return [source.name for source in self.sources]

    @property
    def template_from(self) -> Source:
        """The first source that thinks by its chat template, or else the first one."""
        return next((each for each in self.sources if each.model.thought), self.sources[0])


def run_file_text(proposal: Proposal, folder: Path) -> str:
    """The run file, in ``folder``; paths below that folder are relative to it."""
    return "\n".join(
        [
            *_head(proposal, folder),
            *_benchmarks(proposal, folder),
            *_generation(proposal),
            *_rest(proposal),
        ]
    )


def _head(proposal: Proposal, folder: Path) -> Iterator[str]:
    yield f"#:schema ./{SCHEMA_FILE}"
    yield "# Written by apbmm init. Every key is explained in the run-file reference. Paths are"
    yield "# relative to this file. By the file in the first line editors complete and check keys;"
    yield f"# after an update apbmm schema --out {SCHEMA_FILE} writes it again."
    yield ""
    yield f"name = {text(proposal.name)}"
    yield "seed = 0"
    yield "# Merges beyond a limit are no members of the front, and the search avoids them."
    names = benchmark_names(proposal.benchmarks, proposal.names)
    yield f"# at_least = {inline({names[0]: 0.5})}  # accuracy on this benchmark"
    if "tokens" not in names:  # the key would be that benchmark's accuracy
        yield f"# at_most = {inline({'tokens': 2000})}  # mean over all benchmarks"
    yield ""
    yield "[sources]"
    *others, anchor = proposal.sources
    for source in others:
        why = f": {source.said_by}" if source.said_by else ""
        at_one = " It is the merge at x = 1." if len(others) == 1 else ""
        yield f"# {source.model.label}{why}.{at_one}"
        yield f"{source.name} = {checkpoint(source.model, folder)}"
    yield f"# {anchor.model.label}: the merge at x = 0."
    yield f"{anchor.name} = {checkpoint(anchor.model, folder)}"
    yield ""


def benchmark_names(benchmarks: Iterable[Guess], sources: Sequence[str]) -> list[str]:
    """The names that benchmarks have in the run file, in their order; none is a source's."""
    names: list[str] = []
    for guess in benchmarks:
        names.append(guess.named([*sources, *names]))
    return names


def _benchmarks(proposal: Proposal, folder: Path) -> Iterator[str]:
    names = benchmark_names(proposal.benchmarks, proposal.names)
    for name, guess in zip(names, proposal.benchmarks, strict=True):
        count = "" if guess.questions is None else f"{guess.questions} questions; "
        yield f"# {count}{guess.adapter}: {guess.reason}."
        yield "[[benchmarks]]"
        yield f"name = {text(name)}"
        yield f"adapter = {text(guess.adapter)}"
        yield f"path = {place(guess.path, folder)}"
        if guess.questions is not None and guess.questions > MANY:
            yield "# Drawn at random, the same for every merge: remove the line to ask all."
            yield f"sample = {SAMPLE}"
        if guess.comment:
            yield f"# {guess.comment}"
        if guess.arguments:
            yield f"arguments = {inline(guess.arguments)}"
        yield ""


def _generation(proposal: Proposal) -> Iterator[str]:
    limits = proposal.limits
    yield "[generation]"
    source = proposal.template_from
    every = "Both" if len(proposal.sources) == LEAST_SOURCES else "All"
    yield f"# {every} models are asked with this one's chat template."
    yield f"template_from = {text(source.name)}"
    yield "# An answer is cut off at max_tokens; few answers of a model that thinks should be."
    for reason in limits.reasons:
        yield f"# context: {reason}."
    if limits.token_bytes:
        each = size(limits.token_bytes * limits.context)
        yield f"# Keys and values of one answer of full length take {each}."
    if limits.at_once is not None and limits.at_once < MOST_AT_ONCE:
        yield f"# One engine has room for about {limits.at_once} answers of full length at once."
    yield f"max_tokens = {limits.max_tokens}"
    yield "# Prompt and answer together."
    yield f"context = {limits.context}"
    yield "# Greedy decoding. Where a benchmark has few questions, temperature = 0.6 here and"
    yield "# repeats = 8 there measure it more precisely."
    yield "temperature = 0.0"
    if source.model.thought == THOUGHTS[1]:
        yield f"thought_end = {text(THOUGHTS[1].replace('[', '[/'))}"
    yield ""


def _objectives(proposal: Proposal) -> Iterator[str]:
    objectives, names = proposal.objectives, proposal.names
    if not objectives and len(names) == LEAST_SOURCES:
        good, cheap = (objective.experts(names)[0] for objective in PAPER_OBJECTIVES)
        yield "# Without [[objectives]] there are the two of the paper: reasoning, from accuracy"
        yield f"# ({good} is 1), and cost, from tokens ({cheap} is 1). These in their place are"
        yield "# scaled by values, as where the sources hardly differ:"
        yield from _scaled_by_values(())
        return
    for objective in objectives or PAPER_OBJECTIVES:
        good, poor = objective.experts(names)
        yield f"# 1 is {good}, 0 is {poor}: name others where that is wrong."
        yield "[[objectives]]"
        yield f"name = {text(objective.name)}"
        yield f"metric = {text(objective.metric)}"
        yield f"expert = {text(good)}"
        yield f"vanilla = {text(poor)}"
        if objective.benchmarks:
            yield f"benchmarks = [{', '.join(map(text, objective.benchmarks))}]"
        yield ""
    taken = [objective.name for objective in objectives or PAPER_OBJECTIVES]
    if len(taken) < MOST and any(name not in taken for name in SCALED_BY_VALUES):
        yield "# Objectives may be scaled by values, as where no two sources differ enough:"
        yield from _scaled_by_values(taken)


def _scaled_by_values(taken: Sequence[str]) -> Iterator[str]:
    """Objectives as comments, as many as a run may have beside those of ``taken`` names."""
    free = [name for name in SCALED_BY_VALUES if name not in taken]
    for name in free[: MOST - len(taken)]:
        yield "# [[objectives]]"
        yield f"# name = {text(name)}"
        yield from (f"# {line}" for line in SCALED_BY_VALUES[name])
    yield ""


def _rest(proposal: Proposal) -> Iterator[str]:
    yield from _objectives(proposal)
    yield "# Merges that are evaluated, beside the models themselves. gpu_hours = 24.0 would"
    yield "# limit the cost, patience = 10 ends a search whose hypervolume has stopped growing."
    yield "[budget]"
    yield f"evaluations = {proposal.evaluations}"
    yield f"initial = {_initial(proposal.evaluations)}"
    yield ""
    yield from _confirm(proposal.benchmarks)


def _confirm(benchmarks: tuple[Guess, ...]) -> Iterator[str]:
    """What is kept for a confirmation, as a comment where a benchmark has too few questions."""
    yield "# Keeps a share of the questions out of the search, on which apbmm confirm measures the"
    yield "# front once more: the best of many noisy measurements look better than they are. It"
    yield "# cannot be changed once a run has begun."
    enough = all((guess.questions or 0) >= LEAST_TO_SHARE for guess in benchmarks)
    if not enough:
        yield f"# Left out, as not every benchmark is known to have {LEAST_TO_SHARE} questions:"
        yield "# a share of few is too few to tell merges apart, and the search would lack them."
    mark = "" if enough else "# "
    yield f"{mark}[confirm]"
    yield f"{mark}holdout = 0.3"
    yield ""


def _initial(evaluations: int) -> int:
    """At most the paper's 8, and a third of the evaluations, so that the rest are a search."""
    return min(8, max(2, evaluations // 3), evaluations)


def text(value: str) -> str:
    """A TOML string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def inline(table: Mapping[str, Any]) -> str:
    """A TOML inline table of texts and numbers."""
    parts = (
        f"{key if BARE_KEY.fullmatch(key) else text(key)} = "
        f"{text(value) if isinstance(value, str) else value}"
        for key, value in table.items()
    )
    return f"{{ {', '.join(parts)} }}"


def checkpoint(model: Model, folder: Path) -> str:
    """A source as it stands in a run file in ``folder``, with its adapter where it is one."""
    path, adapter = model.place
    if adapter is None:
        return place(path, folder)
    return f"{{ path = {place(path, folder)}, adapter = {place(adapter, folder)} }}"


def place(path: Path, folder: Path) -> str:
    """A path as it stands in a run file in ``folder``: relative where it is below that."""
    return text(str(path.relative_to(folder) if path.is_relative_to(folder) else path))
