"""`[budget]` and `[steps]`: when the search ends, and how far each merge is measured."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from apbmm_common.run_file.sections.section import Natural, Number, Positive, Section, Unit

EVALUATIONS_BY_DEFAULT = 40


class BudgetSection(Section):
    """When the search ends: when the first of the limits that are given is reached.

    The limits are `evaluations`, `gpu_hours` and `generated_tokens`. Each may be raised when a run
    is resumed, or lowered to what is spent. A merge is begun only while what is spent, and what the
    merges in progress are expected to cost, is below every limit. Those in progress are finished
    and counted, so a limit may be passed by as much as they cost.
    """

    evaluations: Positive | None = None
    """Merges whose evaluation is completed; those that pause or are stopped count by the share of
    their answers, with one answer at least. Where merges are stopped, but not measured in steps,
    another one is begun as long as more than half of one is left. The references do not count. 40
    where no limit is given."""
    gpu_hours: Annotated[Number, Field(gt=0), Unit("hours")] | None = None
    """Hours that workers hold leases, times the cards of each worker; a CPU worker counts as one
    card. Everything leased counts: merges, references, the measurement of the layers, and attempts
    that fail or are lost. Time in which a worker waits for work does not count, nor does a report
    that is made beside the next merge. Time without a master, which is that from its last event to
    the first event of the next one, counts as far as a result says that its worker went on."""
    generated_tokens: Annotated[Positive, Unit("tokens")] | None = None
    """Tokens of all answers in the results of merges and references. Answers of attempts without
    a result are not known, and do not count."""
    initial: Positive = 8
    """How many evaluations are the initial design, before the first proposal of a model. At most
    `evaluations`."""
    patience: Positive | None = None
    """Ends the run when the hypervolume has stopped growing: when it has grown by no more than
    `patience_growth` while merges were evaluated that cost as much as so many average ones. An
    expensive merge counts as more than one, a cheap one as less, by the time of its worker.
    The initial design does not count. A merge that was stopped counts at what it has cost. It may
    be changed when a run is resumed."""
    patience_growth: Annotated[Number, Field(ge=0, lt=1)] = 0.01
    """Share of the hypervolume by which it must grow. It may be changed when a run is resumed."""
    failures: Natural = 10
    """How many vectors may fail for good before the run ends as failed. It may be changed when a
    run is resumed."""
    any_references: bool = False
    """Searches even if most answers of a reference are cut off or malformed, or accuracy cannot
    tell the references apart on any benchmark. Without it such a run ends before the search. It may
    be changed when a run is resumed."""

    @model_validator(mode="before")
    @classmethod
    def _at_least_one_limit(cls, table: Any) -> Any:
        limits = ("evaluations", "gpu_hours", "generated_tokens")
        if isinstance(table, dict) and all(table.get(limit) is None for limit in limits):
            return {**table, "evaluations": EVALUATIONS_BY_DEFAULT}
        return table

    @field_validator("initial")
    @classmethod
    def _within_the_budget(cls, initial: int, info: ValidationInfo) -> int:
        evaluations = info.data.get("evaluations")
        if evaluations is not None and initial > evaluations:
            raise ValueError(f"initial ({initial}) is larger than evaluations ({evaluations})")
        return initial


class StepsSection(Section):
    """Measures merges in steps: each answers a part of the questions, and the promising ones all.

    All merges are asked in one order, of which each prefix has its part of every benchmark. After
    the first step of that order a merge pauses, and its objectives are estimated from its answers
    and those of other merges; the search is told the estimates with their variances. When the rest
    of the budget is about what the front of all estimates takes to be completed, paused merges go
    on with what they have answered, the most promising first. Front, hypervolume and exports hold
    only merges that answered everything. The references answer everything at once.

    It needs two objectives, of accuracy and tokens, constraints of these two metrics alone, and a
    method that takes variances. All keys may be changed when a run is resumed.
    """

    enabled: bool = False
    """Whether merges are measured in steps. A saving is not shown, neither simulated nor on real
    merges (see the page on benchmarks), so that it has to be asked for."""
    first: Annotated[Number, Field(gt=0, lt=1)] = 0.3
    """Share of the questions of the first step."""
    answered: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """The first step ends when so much of it is answered. With less than 1 longer answers are cut
    there, and a merge that goes on continues them where they were cut. An engine then waits for no
    last answer, but where long answers are right more often than short ones, or less often,
    estimates of accuracy are off by more than their intervals say."""
    audits: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """Share of the paused merges, drawn at random, that go on at once all the same. They show how
    good the estimates are."""
    kept: Annotated[Number, Field(gt=0, le=10)] = 0.7
    """What of the budget is kept for the end: this many times what the front of all estimates is
    expected to take. Less begins more merges, more completes more of them."""
    front: Positive | None = None
    """Complete paused merges at the end only until so many are on the front that no estimate beats:
    as many as you would look at. They are chosen by the hypervolume that each adds to the others,
    for its cost. By default all go on that make the hypervolume grow and that the budget allows."""
    stop_beaten: bool | None = None
    """Whether a merge is stopped as soon as a measured merge beats whatever it still answers: one
    that is as accurate as if all open questions were answered right, with no more tokens than
    have been generated, also in answers in flight where a benchmark asks each question once. At
    temperature 0 such a merge is never on the front. One that breaks a constraint whatever it still
    answers is stopped too, once a merge is measured that breaks none. What is stopped counts
    towards the budget with what it has answered, and the search is told its estimate. It goes
    without `enabled`, and has the same needs. Without the key it is on for `ap-bmm-plus` at
    temperature 0 where these needs are met, and off for every other run. A run that was begun with
    it off goes on with it off unless its run file says `true`."""

    @property
    def in_part(self) -> bool:
        """Whether merges may be measured in part."""
        return self.enabled or bool(self.stop_beaten)

    def stopping(self, beaten: bool) -> StepsSection:
        """The same with a value of `stop_beaten`, which still counts as left out of the run file.

        What a run file says itself is in `model_fields_set`.
        """
        values = dict(self) | {"stop_beaten": beaten}
        return type(self).model_construct(self.model_fields_set, **values)
