"""The report of one run: its sections in their order."""

from __future__ import annotations

import time

from apbmm.report.data.answers import neighbours
from apbmm.report.data.model import fitted_surrogate
from apbmm.report.document import Document
from apbmm.report.names import Names
from apbmm.report.sections.answers import answers_section
from apbmm.report.sections.confirmation import confirmation_section
from apbmm.report.sections.details import failures_section, settings_section
from apbmm.report.sections.front import front_section
from apbmm.report.sections.layers import layers_section
from apbmm.report.sections.model import model_section
from apbmm.report.sections.progress import progress_section
from apbmm.report.sections.summary import summary_section
from apbmm.results.confirmation import read_confirmation
from apbmm.results.run_results import RunResults
from apbmm_master.search.methods.bayesian import one_thread


def run_document(results: RunResults, *, show_hosts: bool = False) -> Document:
    """The report of a run, whatever its condition; sections that have nothing to say are absent.

    With ``show_hosts`` it has whole paths and the names of hosts: see `Names`.
    """
    names = Names.of(results, whole=show_hosts)
    answers, confirmation = neighbours(results), read_confirmation(results)
    with one_thread():
        surrogate = fitted_surrogate(results)
        sections = (
            summary_section(results, answers, confirmation),
            front_section(results, surrogate, confirmation),
            confirmation_section(results, confirmation),
            progress_section(results, names),
            layers_section(results, surrogate),
            model_section(results, surrogate),
            answers_section(answers),
            failures_section(results, names),
            settings_section(results, names),
        )
    return Document(
        title=f"{results.spec.name}: merges found by {results.spec.algorithm.name}",
        about=f"Run {results.run} in {names.paths(results.label)}, {results.condition}, as of "
        f"{utc(results.last_at)}.",
        sections=tuple(section for section in sections if section is not None),
        rehearsal=results.rehearsal,
    )


def utc(seconds: float) -> str:
    """Unix seconds for readers in any time zone."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
