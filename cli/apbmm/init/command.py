"""`apbmm init`: asks what is not given, and writes a run file that passes `apbmm check`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from apbmm.check.inspect import inspect
from apbmm.check.view import print_faults
from apbmm.init.benchmarks import BOXED, ColumnsError, Guess, guess, without_box
from apbmm.init.flags import InitFlags
from apbmm.init.limits import propose
from apbmm.init.models import (
    Model,
    Source,
    knows,
    named_model,
    read_model,
    swapped,
    which_thinks,
)
from apbmm.init.objectives import PAPER, objectives_of
from apbmm.init.text import SCHEMA_FILE, Proposal, benchmark_names, run_file_text
from apbmm.installed import on_cpu
from apbmm.run.devices import ALL, CPU, devices_of, memory_of
from apbmm.run_file_schema import schema_text
from apbmm_common.errors import EXIT_DONE, EXIT_USAGE, ApbmmError, UsageError
from apbmm_common.metrics import METRICS
from apbmm_common.process.command_line import report
from apbmm_common.process.whole_files import write_whole
from apbmm_common.run_file import LEAST_SOURCES
from apbmm_common.run_file.sections.sources import MOST_SOURCES, PAPER_SOURCES

T = TypeVar("T")
MERGES = 40


def write_run_file(run_file: Path, flags: InitFlags) -> int:
    """Write ``run_file`` and say what was decided; returns the exit code.

    Raises `UsageError` for what is missing where nobody can be asked, for a file that exists, and
    for models, benchmarks and cards that cannot be used.
    """
    if run_file.exists() and not flags.force:
        raise UsageError(f"{run_file} exists", "--force replaces it")
    if not run_file.absolute().parent.is_dir():
        raise UsageError(
            f"{run_file}: there is no folder {run_file.parent}", f"mkdir -p {run_file.parent}"
        )
    asks = sys.stdin.isatty()
    if not asks:
        _require_all(flags)
    sources = _sources(flags, asks=asks)
    benchmarks = _benchmarks(flags, asks=asks)
    if not knows(sources[0].model.checkpoint.path, BOXED.replace("{question}", "")):
        benchmarks = tuple(map(without_box, benchmarks))
    names = [source.name for source in sources]
    asked = benchmark_names(benchmarks, names)
    objectives = objectives_of(flags.objective, asked, names)
    if asks and _missing(flags) and not flags.objective:
        objectives = _answer(
            f"Objectives (two to five of {', '.join(METRICS)}, or a score of EvalScope)",
            lambda given: objectives_of(given.replace(",", " ").split(), asked, names),
            default=",".join(PAPER),
        )
    gpus = flags.gpus or (
        _answer("GPUs (all, 0,1, cpu)", _device_names, default=_default_gpus())
        if asks and _missing(flags)
        else _default_gpus()
    )
    memory = _memory(gpus)
    limits = propose(
        [source.model.checkpoint for source in sources],
        max(each.longest for each in benchmarks),
        memory,
        flags.max_tokens,
    )
    name = flags.name or re.sub(r"[^A-Za-z0-9._-]+", "-", run_file.stem).lstrip("._-")[:64] or "run"
    proposal = Proposal(
        name,
        sources,
        benchmarks,
        objectives,
        limits,
        flags.evaluations or MERGES,
    )
    if not _written(run_file, proposal):
        return EXIT_USAGE
    _tell(run_file, proposal, gpus, memory)
    return EXIT_DONE


def _missing(flags: InitFlags) -> list[str]:
    """The flags that name what nobody can guess, as far as they were not given, in words."""
    models = {0: ["two --model"], 1: ["a second --model"]}.get(_models_given(flags), [])
    return models + ([] if flags.benchmark else ["a --benchmark"])


def _models_given(flags: InitFlags) -> int:
    return len(flags.model) + (flags.thinking is not None) + (flags.instruct is not None)


def _require_all(flags: InitFlags) -> None:
    if missing := " and ".join(_missing(flags)):
        several = " and " in missing or missing.startswith("two ")
        raise UsageError(
            f"standard input is no terminal, so nothing can be asked, and {missing} "
            f"{'are' if several else 'is'} missing",
            "apbmm init RUN.toml --model FOLDER --model FOLDER --benchmark FOLDER",
        )


# ---- what is given or asked ----------------------------------------------------------------------


def _sources(flags: InitFlags, *, asks: bool) -> tuple[Source, ...]:
    """The sources, the anchor last: under names that were given, or a pair that is told apart."""
    given = [*flags.model]
    if asks and not _models_given(flags):
        question = f"Model 1 ({_where(flags)}; or NAME=FOLDER, of two to eight)"
        given = [_answer(question, partial(_readable, flags))]
    names = [named_model(each)[0] for each in given]
    if any(names):
        if not all(names) or flags.thinking or flags.instruct:
            raise UsageError(
                "some models are named and others are not", "name all: --model NAME=FOLDER"
            )
        found = _named(given, flags, asks=asks)
    else:
        found = _pair(given, flags, asks=asks)
    places = [source.model.place for source in found]
    if twice := next((s.model.named for s in found if places.count(s.model.place) > 1), ""):
        raise UsageError(f"{twice} is given twice", "a merge is of different models")
    return found


def _named(given: list[str], flags: InitFlags, *, asks: bool) -> tuple[Source, ...]:
    """Sources under names of the user's own."""

    def read(text: str) -> Source | None:
        if not text and len(sources) >= LEAST_SOURCES:
            return None
        name, place = named_model(text)
        if not name or any(source.name == name for source in sources):
            raise UsageError(f"{text!r}: a model needs a name of its own", "NAME=FOLDER")
        return Source(name, read_model(place, download=flags.download))

    sources: list[Source] = []
    for text in given:
        source = read(text)
        assert source is not None
        sources.append(source)
    while asks and len(sources) < (LEAST_SOURCES if flags.model else MOST_SOURCES):
        more = "" if len(sources) < LEAST_SOURCES else "; empty: no more, the last one is x = 0"
        source = _answer(f"Model {len(sources) + 1} (NAME=FOLDER{more})", read)
        if source is None:
            break
        sources.append(source)
    if not LEAST_SOURCES <= len(sources) <= MOST_SOURCES:
        raise UsageError(
            f"{len(sources)} model{'' if len(sources) == 1 else 's'}: from {LEAST_SOURCES} to "
            f"{MOST_SOURCES} are merged",
            "--model NAME=FOLDER names each",
        )
    return tuple(sources)


def _pair(given: list[str], flags: InitFlags, *, asks: bool) -> tuple[Source, ...]:
    """The thinking model and the other one."""
    count = len(given) + (flags.thinking is not None) + (flags.instruct is not None)
    if count > LEAST_SOURCES:
        raise UsageError(
            f"{count} models are named",
            "--model NAME=FOLDER for each, where more than two are merged",
        )
    read = partial(read_model, download=flags.download)
    models = [read(name) for name in (flags.thinking, *given) if name is not None]
    models += [_answer(f"Model {n} ({_where(flags)})", read) for n in range(count + 1, 3)]
    if flags.instruct is not None:
        models.append(read(flags.instruct))
    first, second = models
    if flags.thinking is not None or flags.instruct is not None:
        return _as_pair(first, second, "named as the thinking model")
    found = which_thinks((first, second))
    if found is not None:
        return _as_pair(*found)
    if first.place == second.place:
        return _as_pair(first, second, "")
    if not asks:
        raise UsageError(
            f"neither chat templates nor names say which of {first.named} and {second.named} is "
            "the thinking model",
            "name it with --thinking, and the other one with --instruct; or name both as you like "
            "with --model NAME=FOLDER",
        )
    choice = _answer(
        f"Which is the thinking model: 1 ({first.label}) or 2 ({second.label})", _one_or_two
    )
    return _as_pair(*((first, second) if choice == 1 else (second, first)), "said so")


def _as_pair(thinking: Model, instruct: Model, said_by: str) -> tuple[Source, ...]:
    names = PAPER_SOURCES
    return Source(names[0], thinking, said_by), Source(names[1], instruct)


def _where(flags: InitFlags) -> str:
    return f"folder, or {'' if flags.download else 'cached '}ORG/MODEL"


def _readable(flags: InitFlags, given: str) -> str:
    """What was typed, if it is a model. Raises `UsageError`."""
    read_model(named_model(given)[1], download=flags.download)
    return given


def _benchmarks(flags: InitFlags, *, asks: bool) -> tuple[Guess, ...]:
    found = [_understood(given, flags, asks=asks) for given in flags.benchmark]
    while asks and not flags.benchmark:
        more = " (empty: no more)" if found else ""
        given = _answer(
            f"Benchmark {len(found) + 1} (folder or file){more}", _guess_or_end(found, flags)
        )
        if given is None:
            break
        _say(f"  {given.adapter}: {given.reason}")
        found.append(given)
    return tuple(found)


def _guess_or_end(found: Sequence[Guess], flags: InitFlags) -> Callable[[str], Guess | None]:
    return lambda given: _understood(given, flags, asks=True) if given or not found else None


def _understood(given: str, flags: InitFlags, *, asks: bool) -> Guess:
    """What a benchmark is; with ``asks`` columns that are not known are asked for.

    Where it lacks a column of --question or --answer that another benchmark has, its own one is
    guessed.
    """
    named = {"question": flags.question, "answer": flags.answer}
    while True:
        try:
            return guess(given, **named)
        except ColumnsError as error:
            of_others = [role for role in error.missing if _has_column(flags, role, named[role])]
            if of_others:
                named |= dict.fromkeys(of_others)
                continue
            if not asks:
                raise
            for role in error.missing:
                named[role] = _answer(
                    f"Which column is the {role} ({', '.join(error.columns)})",
                    partial(_one_of, error.columns),
                )


def _has_column(flags: InitFlags, role: str, column: str | None) -> bool:
    """Whether one of the benchmarks has the column that was named for a role."""
    for given in flags.benchmark if column else ():
        try:
            guess(given, **{role: column})
        except ColumnsError as error:
            if role in error.missing:
                continue
        except UsageError:
            continue
        return True
    return False


def _answer(question: str, read: Callable[[str], T], default: str = "") -> T:
    """What ``read`` makes of an answer; asked again where it raises an `ApbmmError`."""
    while True:
        _say(f"{question}{f' [{default}]' if default else ''}: ", end="")
        line = sys.stdin.readline()
        if not line:
            raise UsageError("the input has ended before everything was asked")
        try:
            return read(line.strip() or default)
        except ApbmmError as error:
            report(error)


def _one_of(columns: Sequence[str], given: str) -> str:
    if given not in columns:
        raise UsageError(f"there is no column {given!r}, only {', '.join(columns)}")
    return given


def _one_or_two(given: str) -> int:
    if given not in ("1", "2"):
        raise UsageError(f"{given!r} is neither 1 nor 2")
    return int(given)


def _device_names(given: str) -> str:
    devices_of(given, None, rehearsal=False)
    return given


def _default_gpus() -> str:
    return CPU if on_cpu() else ALL


def _memory(gpus: str) -> int:
    """As `memory_of`; the run may be for another host, whose cards are not known."""
    return memory_of((gpus,) if gpus == CPU else _devices(gpus))


def _devices(gpus: str) -> tuple[str, ...]:
    return ("0",) if gpus == ALL else devices_of(gpus, None, rehearsal=False)


# ---- the file ------------------------------------------------------------------------------------


def _written(run_file: Path, proposal: Proposal) -> bool:
    """Write the run file if it has no faults; otherwise print them as `apbmm check` does."""
    content = run_file_text(proposal, run_file.absolute().parent)
    draft = run_file.with_name(f".{run_file.name}.draft.toml")
    try:
        draft.write_text(content, encoding="utf-8")
        found = inspect(draft)
        if found.faults:
            found.run_file = run_file
            print_faults(found, "not written, ")
            return False
        write_whole(run_file, content.encode())
        write_whole(run_file.with_name(SCHEMA_FILE), schema_text().encode())
    except OSError as error:
        raise UsageError(f"{run_file}: cannot be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
    return True


def _tell(run_file: Path, proposal: Proposal, gpus: str, memory: int) -> None:
    """What was decided and why, and the next two commands."""
    limits = proposal.limits
    for source in proposal.sources:
        why = f": {source.said_by}" if source.said_by else ""
        _say(f"{source.name:<11} {source.model.label}{why}")
    models = {source.name: source.model for source in proposal.sources}
    if models.keys() == set(PAPER_SOURCES) and (
        note := swapped(*(models[name] for name in PAPER_SOURCES))
    ):
        _say(f"note: {note}")
    for each in proposal.benchmarks:
        count = "" if each.questions is None else f"{each.questions} questions, "
        _say(f"benchmark   {each.path}: {count}{each.adapter} ({each.reason})")
    for objective in proposal.objectives:
        _say(f"objective   {objective.name}: {objective.metric}")
    why = f" ({'; '.join(limits.reasons)})" if limits.reasons else ""
    _say(f"limits      {limits.max_tokens} tokens in a context of {limits.context}{why}")
    if memory and limits.at_once is not None and limits.at_once < 1:
        _say(
            "note: the models and one answer hardly fit on a card: give each worker several, as in "
            "--gpus 0+1"
        )
    _say(f"wrote {run_file}, and {SCHEMA_FILE} beside it for editors; next:")
    file = shlex.quote(str(run_file))
    _say(f"  apbmm check {file} --probe")
    _say(f"  apbmm run {file} --gpus {gpus}")


def _say(line: str, end: str = "\n") -> None:
    Console(highlight=False, soft_wrap=True).print(line, markup=False, end=end)
