"""The run file of a pair: each kind of its problems is a benchmark, and confirms with others."""

from __future__ import annotations

from collections.abc import Iterable

RUN = """\
name = "{name}"
seed = 0

[sources]
thinking = "thinking"
instruct = "instruct"
{benchmarks}
[generation]
template_from = "thinking"
max_tokens = 96
context = 256
temperature = 0.0

[prior]
prompts = "problems/prompts.jsonl"
questions = 48

[budget]
evaluations = 40
initial = 8
{confirming}
[engine]
dtype = "{dtype}"
"""
BENCHMARK = """
[[{table}]]
name = "{name}"
adapter = "apbmm_answer"
path = "problems/{file}.jsonl"
arguments = {{ after = "{marker}" }}
"""


def run_file(name: str, kinds: Iterable[str], marker: str, dtype: str) -> str:
    """The text of `run.toml`, beside the folders of `write_problems` and of the two models.

    ``marker`` stands before an answer's result, and engines compute in ``dtype``.
    """
    kinds = tuple(kinds)

    def tables(table: str, prefix: str, file: str) -> str:
        return "".join(
            BENCHMARK.format(table=table, name=prefix + kind, file=file + kind, marker=marker)
            for kind in kinds
        )

    return RUN.format(
        name=name,
        benchmarks=tables("benchmarks", "", ""),
        confirming=tables("confirm.benchmarks", "new-", "confirm_"),
        dtype=dtype,
    )
