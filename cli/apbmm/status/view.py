"""Prints a status snapshot for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm.results.words import (
    asked_in_words,
    blocks_in_words,
    checks_in_words,
    cost_unit,
    duration,
    moment,
)
from apbmm_common.checkpoint.identical_layers import not_searched
from apbmm_common.metrics import metric, shown_metrics
from apbmm_master.journal.costs.budget import UNITS, amount, roughly
from apbmm_master.status.point_table import PointTable
from apbmm_master.status.result_words import front_in_words
from apbmm_master.status.stages import stage_line

Entry = Mapping[str, Any]

WIDTH_WITHOUT_TERMINAL = 120
BAR_WIDTH = 40
INSECURE = "INSECURE: other hosts can reach this master, and it accepts them all (no keys)"
ANOTHER_USER = (
    "this is what the journal says: only the user that starts its masters may ask one "
    "(as with sudo -u USER apbmm status)"
)
CARD = "card"
STALE_SECONDS = 20.0
"""A heartbeat older than this is shown in yellow."""


def console() -> Console:
    """Standard output; if that is not a terminal, wide enough for the tables."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)


def render(status: Entry) -> RenderableType:
    """The whole snapshot."""
    if not status.get("run"):
        return Text("the journal is empty: the run has not begun")
    parts: list[RenderableType] = [head(status), *_story(status)]
    parts += [*_budget(status), _counts(status)]
    parts += [Text(line, style="yellow") for line in trouble_lines(status)]
    if status["workers"]:
        parts.append(_workers(status["workers"], _answers_kept(status)))
    parts += [Text(line) for line in _kept(status)]
    references = status.get("references", {})
    if references:
        parts.append(
            _points("References", [{"id": k, "metrics": references[k]} for k in references], status)
        )
    if status["front"]:
        front = sorted(status["front"], key=lambda point: tuple(point["objectives"]))
        objectives = status.get("objectives", ())
        parts.append(_points("Pareto front", front, status, objectives))
    if estimates := estimated(status):
        parts.append(_estimates(estimates, status))
    parts += [Text(line) for line in _steps(status)]
    parts.append(Text(_result(status)))
    stages = stage_line(status.get("stages", {}))
    if stages:
        parts.append(Text(stages))
    return Group(*parts)


def head(status: Entry) -> Text:
    """The run, its method and its state in one line."""
    text = Text()
    if status.get("rehearsal"):
        text.append("REHEARSAL ", style="bold magenta")
    text.append(str(status["run"]), style="bold")
    text.append(f"  {status['algorithm']}  ")
    if status.get("finished"):
        style = "red" if status.get("failed") else "green"
        text.append(f"finished: {status['finished']}", style=style)
    elif status.get("fault"):
        text.append("stopped by an error", style="red")
    elif status["master_alive"] is None:
        text.append(ANOTHER_USER, style="yellow")
    elif not status["master_alive"]:
        text.append("no master: this is what the journal says", style="yellow")
    elif status.get("draining"):
        text.append("draining: starts nothing new", style="yellow")
    else:
        text.append("master alive", style="green")
    return text


def _story(status: Entry) -> Iterator[Text]:
    """What was searched, from when to when, and what it cost; nothing that a master left out."""
    if sources := status.get("sources"):
        yield Text(", ".join(f"{role} {path}" for role, path in sources.items()))
    if benchmarks := status.get("benchmarks"):
        yield Text(", ".join(map(_benchmark, benchmarks)))
    if blocks := status.get("found_blocks"):
        yield Text(blocks_in_words(blocks))
    if status.get("begun_at") is None:
        return
    hosts = [f"{host} ({gpu})" for host, gpu in status["hosts"]]
    parts = [
        f"begun {moment(status['begun_at'])}, last event {moment(status['last_at'])}",
        f"{duration(status['seconds'])} with a master",
        f"evaluations took {duration(status['gpu_seconds'])} of a {device_of(status)} and "
        f"{status['tokens']:,.0f} tokens",
        f"workers on {', '.join(hosts)}" if hosts else "no worker yet",
    ]
    yield Text("; ".join(parts))
    if learnt := status.get("learnt"):
        yield Text(
            f"learnt from {learnt['run']}: the references and {learnt['merges']} merges (l0001, "
            f"...), hypervolume {learnt['hypervolume']:.4f} by themselves; not part of this budget"
        )
    for place, versions in status.get("versions", {}).items():
        if versions:
            yield Text(f"{place}: {', '.join(f'{name} {v}' for name, v in versions.items())}")


def device_of(status: Entry) -> str:
    """What evaluations take the time of: a card, or a worker where no card takes part."""
    gpus = {gpu for _, gpu in status.get("hosts", ())}
    return "worker" if gpus and gpus <= {"cpu", "rehearsal"} else CARD


def _benchmark(benchmark: Entry) -> str:
    questions, repeats = benchmark["questions"], benchmark.get("repeats", 1)
    count = "" if questions is None else f", {asked_in_words(questions, repeats)}"
    return f"{benchmark['name']} ({benchmark['adapter']}{count})"


def _budget(status: Entry) -> Iterator[RenderableType]:
    """A bar for each limit, what a merge costs, and when the first limit is reached."""
    rows = Table.grid(padding=(0, 1))
    for limit in limits_of(status):
        most, spent = limit["limit"], limit["spent"]
        bar = ProgressBar(most, min(most, spent), width=BAR_WIDTH)
        numbers = f"{amount(spent)}/{amount(most)} {UNITS[limit['name']]}"
        rows.add_row(bar, f"{numbers}, {amount(limit['left'])} left")
    yield rows
    parts = []
    if cost := status.get("mean_cost"):
        parts.append(
            f"a merge costs {duration(cost['gpu_seconds'])} of a {device_of(status)} and "
            f"{cost['tokens']:,.0f} tokens on average"
        )
    if expected := status.get("forecast"):
        unit = UNITS[expected["limit"]]
        parts.append(f"{roughly(expected['seconds'])} until the {unit} are spent")
    if parts:
        yield Text("; ".join(parts))


def limits_of(status: Entry) -> Sequence[Entry]:
    """The limits; those of an earlier version's master, which had one kind."""
    done, most = status["evaluations"]["done"], status["budget"]
    alone = {
        "name": "evaluations",
        "limit": most,
        "spent": done,
        "left": max(0, (most or 0) - done),
    }
    found: Sequence[Entry] = status.get("limits", [alone])
    return found


def _counts(status: Entry) -> Text:
    counts = status["evaluations"]
    names = ["done", "running", "queued", "failed"]
    names[1:1] = [name for name in ("paused", "stopped") if counts.get(name)]
    abandoned = counts["running"] if status["master_alive"] is False else 0
    if abandoned:
        names.remove("running")
    text = ", ".join(f"{counts[name]} {name}" for name in names)
    if abandoned:
        were = "was" if abandoned == 1 else "were"
        text += f"; {abandoned} {were} running when the master ended"
    return Text(text)


def trouble_lines(status: Entry) -> list[str]:
    """What a person should know or do something about, a line each."""
    lines = [INSECURE] if status.get("security") == "insecure" else []
    lines += [str(status["trouble"])] if status.get("trouble") else []
    for name, broken in status.get("references_breaking", {}).items():
        lines.append(f"{name} itself breaks {', '.join(broken)}")
    if layers := status.get("identical_layers"):
        lines.append(not_searched(layers))
    lines += [f"{f['id']} is given up: {f['message']}" for f in status.get("failures", ())]
    wire = status.get("wire", {})
    refused = [
        f"{wire[key]} {key.removeprefix('refused_')}"
        for key in sorted(wire)
        if key.startswith("refused_") and wire[key]
    ]
    if refused:
        lines.append(f"refused: {', '.join(refused)}; the last one: {wire['last_refusal']}")
    for worker in status["workers"]:
        if worker.get("reason") and worker["reason"] not in status.get("trouble", ""):
            lines.append(f"worker {worker['name']} is {worker['state']}: {worker['reason']}")
        if worker.get("trouble"):
            lines.append(f"worker {worker['name']}: {worker['trouble']}")
    return lines


def _answers_kept(status: Entry) -> dict[str, int]:
    """By unfinished evaluation: how many of its answers the master holds."""
    return {row["id"]: row["answers"] for row in status.get("kept", ())}


def _kept(status: Entry) -> Iterator[str]:
    """What is kept of unfinished evaluations that lost an attempt, and what that spares."""
    kept = _answers_kept(status)
    for row in status.get("running", ()):
        if row.get("taken"):
            yield (
                f"{row['id']} goes on in attempt {row['attempt']}: {row['taken']} answers of "
                f"earlier attempts are not asked for again, {kept.get(row['id'], 0)} are kept now"
            )
    for row in status.get("kept", ()):
        if row["state"] == "queued":
            yield f"{row['id']} waits for a worker: {row['answers']} of its answers are kept"


def _workers(workers: Sequence[Entry], kept: Mapping[str, int]) -> Table:
    table = Table(title="Workers")
    for name in ("worker", "device", "state", "evaluation", "stage"):
        table.add_column(name)
    table.add_column("progress", justify="right")
    table.add_column("answers kept", justify="right")
    table.add_column("heartbeat", justify="right")
    for worker in workers:
        age = worker.get("heartbeat_age")
        is_stale = age is not None and age > STALE_SECONDS
        total = worker.get("total", 0)
        table.add_row(
            Text(worker["name"]),
            Text(worker["gpu"]),
            Text(worker["state"]),
            Text(worker["evaluation"]),
            Text(_stage(worker)),
            f"{worker['done']}/{total}" if total else "",
            str(kept.get(worker["evaluation"], "")),
            Text("" if age is None else f"{age:.0f} s ago", style="yellow" if is_stale else ""),
        )
    return table


def _stage(worker: Entry) -> str:
    """What a worker does, and of which merge it makes the report beside that."""
    reported = worker.get("reporting", "")
    beside = f"report of {reported}" if reported not in ("", worker["evaluation"]) else ""
    return "; ".join(filter(None, (worker.get("stage", ""), beside)))


def _points(
    title: str, points: Sequence[Entry], status: Entry, objectives: Sequence[str] = ()
) -> PointTable:
    shown = status.get("metrics") or shown_metrics(())
    columns = [
        (benchmark, name)
        for benchmark in points[0]["metrics"]
        for name in shown
        if any(name in point["metrics"][benchmark] for point in points)
    ]
    return PointTable(
        title,
        objectives,
        [f"{benchmark}\n{name}" for benchmark, name in columns],
        [
            (
                point["id"],
                [f"{value:.3f}" for value in point.get("objectives", ())],
                [_cell(point["metrics"][benchmark], name) for benchmark, name in columns],
            )
            for point in points
        ],
    )


def _cell(values: Entry, name: str) -> str:
    """One metric of a benchmark; beside the tokens, how many answers the limit of tokens cut."""
    truncated = values.get("truncated", 0)
    if name == "truncated":
        return metric(name).text(truncated / (values["questions"] * values.get("repeats", 1)))
    cut = f" ({truncated:.0f} cut)" if name == "tokens" and truncated else ""
    return metric(name).text(values.get(name)) + cut


def estimated(status: Entry) -> list[Entry]:
    """The merges that are estimated from part of the answers, in the order of their proposals."""
    steps = status.get("steps") or {}
    return [entry for entry in steps.get("estimates", ()) if entry["objectives"] is not None]


def estimate_in_words(entry: Entry, objectives: Sequence[str]) -> str:
    """An estimated merge in a line; ``~`` marks what is no measurement."""
    scores = ", ".join(
        f"{name} ~{value:.3f}" for name, value in zip(objectives, entry["objectives"], strict=False)
    )
    beyond = f"  may break {', '.join(entry['breaks'])}" if entry.get("breaks") else ""
    answered = f"after {entry['answered']} of {entry['answers']} answers"
    return f"{entry['id']}  {scores}  {answered}{beyond}"


def _estimates(estimates: Sequence[Entry], status: Entry) -> Table:
    """What is estimated, with the standard deviations, and what each merge has cost."""
    table = Table(title="Estimates from part of the answers (~)")
    table.add_column("id")
    for name in status.get("objectives", ()):
        table.add_column(name, justify="right")
    for name in ("state", "answered", "tokens", cost_unit(device_of(status), "seconds")):
        table.add_column(name, justify="right")
    constrained = bool(status.get("constraints"))
    if constrained:
        table.add_column("may break")
    ordered = sorted(estimates, key=lambda entry: tuple(entry["objectives"]))
    for entry in ordered:
        pairs = zip(entry["objectives"], entry["deviations"], strict=True)
        table.add_row(
            entry["id"],
            *(f"~{value:+.3f} ± {deviation:.3f}" for value, deviation in pairs),
            entry["state"],
            f"{entry['answered']}/{entry['answers']}",
            f"{entry['tokens']:,.0f}",
            f"{entry['gpu_seconds']:.1f}",
            *([", ".join(entry.get("breaks", ()))] if constrained else ()),
        )
    return table


def _steps(status: Entry) -> Iterator[str]:
    """What the merges measured in steps have come to."""
    steps = status.get("steps") or {}
    if steps.get("finishing") and not status.get("finished"):
        yield f"paused merges are completed, and no other is begun: {steps['finishing']}"
    if (checks := steps.get("checks", {})) and checks["merges"]:
        yield checks_in_words(checks)


def _result(status: Entry) -> str:
    # Of a run that has ended its trouble is that of its references or its data.
    unscaled = status.get("fault") or (status.get("finished") and status.get("trouble"))
    if not status["front"] and unscaled and len(status.get("references", ())) > 1:
        return "no objectives: Eq. 2 cannot be applied to these references"
    limits = ", ".join(status.get("constraints", ()))
    breaking = status.get("breaking", 0)
    if not status["front"] and breaking:
        return f"no front yet: all {breaking} merges that are measured break {limits}"
    if not status["front"]:
        return "no objectives yet: they need all references and a completed evaluation"
    parts = [front_in_words(status["hypervolume"], len(status["front"]))]
    if limits:
        parts.append(f"{breaking or 'no'} merge{'' if breaking == 1 else 's'} beyond {limits}")
    if status.get("load_rate") is not None:
        parts.append(f"load rate {status['load_rate']:.1%}")
    return ", ".join(parts)


def evaluations_table(results: RunResults) -> Table:
    """Every evaluation of a run, with the weights of its merge."""
    shown = results.shown_metrics
    columns = [name for name in shown if any(e.figure(name) for e in results.evaluations)]
    table = Table(title="Evaluations")
    for name in ("id", "purpose", "state", "front"):
        table.add_column(name)
    for name in (*results.objectives, *columns, cost_unit(results.device, "seconds")):
        table.add_column(name, justify="right")
    table.add_column("weights", overflow="fold")
    for each in results.evaluations:
        table.add_row(
            each.id,
            each.purpose,
            str(each.state),
            "yes" if each.on_front else "breaks a constraint" if each.breaks else "",
            *(f"{value:.3f}" for value in each.objectives or ()),
            *("-" for _ in results.objectives if each.objectives is None),
            *(metric(name).text(f.value if (f := each.figure(name)) else None) for name in columns),
            f"{each.gpu_seconds:.1f}",
            Text(each.message or "\n".join(_weights(results, each))),
        )
    return table


def _weights(results: RunResults, each: EvaluationResult) -> Iterator[str]:
    """The weights of a merge by layer: a line for each source or part, or the one line."""
    rows: dict[str, tuple[float, ...]] = {}
    for source in results.weighed if each.source_weights else ():
        name = source if len(results.weighed) > 1 else ""
        of_parts = each.part_weights[source] or {"": each.source_weights[source]}
        rows |= {f"{name} {part}".strip(): row for part, row in of_parts.items()}
    for name, row in (rows or {"": each.vector}).items():
        weights = " ".join(f"{weight:.2f}" for weight in row)
        yield f"{name} {weights}" if len(rows) > 1 else weights
