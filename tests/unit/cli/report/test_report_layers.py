"""What the report says of the surrogate and of the layers follows from the journal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apbmm.report.data.layers import agreements, component_names, components
from apbmm.report.data.model import calibrations, effects, fitted_surrogate, pending_predictions
from apbmm.report.data.points import short_id
from apbmm.report.sections.layers import layers_section, weight_cells
from apbmm.results.run_results import RunResults, read_results
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import Space
from apbmm_common.run_file.sections.merge import MergeSection
from apbmm_master.journal.events import AnyEvent, Beaten, Proposed, Record, Stopped
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import Journal, read_journal
from apbmm_master.optimiser.client import ask_outcomes, history_of, search_arguments
from apbmm_master.optimiser.process import AskRequest, OptimiserSession
from apbmm_master.status.snapshot import journal_snapshot
from stepped_merges import estimated, paused
from written_runs import answered, lengthen, write_run

POINTS = [[0.1, 0.9], [0.2, 0.85], [0.35, 0.7], [0.5, 0.6], [0.55, 0.4], [0.8, 0.3]]


def written(folder: Path, points: Any = POINTS, **changes: Any) -> RunResults:
    changes = {"algorithm": {"name": "ap-bmm-plus"}} | changes
    return read_results(write_run(folder, points, **changes))


def test_the_surrogate_has_the_completed_merges_in_their_order(tmp_path: Path) -> None:
    results = written(tmp_path)
    surrogate = fitted_surrogate(results)
    assert surrogate is not None
    seen = surrogate.model.train_inputs[0][0].numpy()
    vectors = [each.vector for each in results.completed]
    np.testing.assert_array_equal(seen[: len(vectors)], vectors)
    for k, found in enumerate(calibrations(results, surrogate)):
        assert [p.evaluation for p in found.predictions] == results.run_state.completed
        assert [p.measured for p in found.predictions] == pytest.approx([p[k] for p in POINTS])
        assert found.covered == sum(p.is_covered for p in found.predictions)
        errors = [p.predicted - p.measured for p in found.predictions]
        assert found.error == pytest.approx(np.sqrt(np.mean(np.square(errors))))
        assert found.spread == pytest.approx(np.std([p[k] for p in POINTS]))


def test_the_surrogate_of_a_run_that_has_learnt_has_all_merges_in_their_order(
    tmp_path: Path,
) -> None:
    method: dict[str, Any] = {"algorithm": {"name": "ap-bmm-plus"}}
    earlier = write_run(tmp_path / "earlier", POINTS[:4], **method)
    results = read_results(write_run(tmp_path / "later", POINTS[4:], learn_from=earlier, **method))
    surrogate = fitted_surrogate(results)
    assert surrogate is not None
    assert effects(results, surrogate).shape == (4, 2)
    for k, found in enumerate(calibrations(results, surrogate)):
        assert [p.evaluation for p in found.predictions] == [
            "l0001", "l0002", "l0003", "l0004", "e0001", "e0002",
        ]  # fmt: skip
        assert [p.measured for p in found.predictions] == pytest.approx([p[k] for p in POINTS])


def test_the_surrogate_is_that_of_the_next_proposal(tmp_path: Path) -> None:
    """It is told the noise that outcomes show, which is less than that of independent questions."""
    rng = np.random.default_rng(5)
    asked = np.arange(20) / 20

    def body(level: float) -> Evaluated:
        scores = (asked + 0.2 * rng.random(20) < level).astype(float).tolist()
        return answered(scores, (100 + 500 * level + 50 * asked).astype(int).tolist())

    settings = {"samples": 16, "restarts": 2, "raw_samples": 8, "correlated": 0.0}
    results = written(
        tmp_path,
        [body(level) for level in (0.3, 0.4, 0.5, 0.6)],
        ends={"thinking": body(0.9), "instruct": body(0.2)},
        budget=6,
        algorithm={"name": "ap-bmm-plus", "settings": settings},
    )
    surrogate = fitted_surrogate(results)
    assert surrogate is not None
    state = results.run_state
    history, outcomes = history_of(state), ask_outcomes(state, results.run_dir)
    asked_now = AskRequest(search_arguments(state), history, (), 1, outcomes=outcomes)
    report = OptimiserSession().reply(asked_now).diagnostics
    assert surrogate.lengthscales.tolist() == report["lengthscales"]


def test_predictions_are_of_their_merges_where_others_were_stopped(tmp_path: Path) -> None:
    """The surrogate is told the estimate of a stopped merge, between the results of others."""
    folder = write_run(tmp_path, POINTS[:3], budget=10, algorithm={"name": "ap-bmm-plus"})
    state = RunState().replay(read_journal(folder))
    ((evaluation, attempt),) = state.active_attempts()
    step = paused(evaluation.id).model_copy(update={"lease": attempt.lease})
    events: tuple[AnyEvent, ...] = (
        Beaten(evaluation=evaluation.id, lease=attempt.lease, reason="beaten"),
        step,
        Stopped(evaluation=evaluation.id, reason="beaten"),
        estimated(evaluation.id),
    )
    with Journal(folder) as journal:
        records = [Record(state.seq + i, state.time + i, e) for i, e in enumerate(events, 1)]
        journal.append(records)
    results = read_results(lengthen(folder, POINTS[3:]))
    surrogate = fitted_surrogate(results)
    assert surrogate is not None
    means, _ = surrogate.leave_one_out()
    of_each = {x.tobytes(): mean for x, mean in zip(surrogate.observed, means, strict=True)}
    for k, found in enumerate(calibrations(results, surrogate)):
        assert [p.predicted for p in found.predictions] == [
            of_each[np.array(each.vector).tobytes()][k] for each in results.completed
        ]


def test_a_pending_merge_is_predicted(tmp_path: Path) -> None:
    results = written(tmp_path, POINTS[:5], budget=6)
    surrogate = fitted_surrogate(results)
    assert surrogate is not None
    (name,) = pending_predictions(results, surrogate)
    assert name == "e0006"
    # Merges of the first five vectors and both ends are on a line between the ends.
    assert all(0.0 < value < 1.0 for value in pending_predictions(results, surrogate)[name])


def test_without_another_fit_there_are_the_lengthscales_of_the_last_proposal(
    tmp_path: Path,
) -> None:
    results = written(tmp_path)
    assert [column.fitted for column in components(results, None)] == [()] * 4
    *before, last = [r for r in results.records if isinstance(r.event, Proposed)]
    fits = {"lengthscales": [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], [9.0] * 4]}
    event = last.event.model_copy(update={"diagnostics": fits})
    # A later fit of their principal components has lengthscales of none of the objectives.
    turned = last.event.model_copy(update={"diagnostics": {**fits, "correlated": True}})
    last_two = [Record(last.seq + at, last.time, each) for at, each in enumerate((event, turned))]
    results = replace(results, records=[*before, *last_two])
    found = components(results, None)
    assert [column.fitted for column in found] == [(1, 5), (2, 6), (3, 7), (4, 8)]
    assert agreements(found, results.objectives) == []
    section = layers_section(results, None)
    assert section is not None
    (prior,) = [figure for figure in section.figures if figure.name == "prior"]
    assert "of the last model of the objectives that a proposal came from" in prior.caption
    assert "fitted, cost" in str(prior.chart.to_dict())


def test_columns_say_what_each_component_is_and_does(tmp_path: Path) -> None:
    results = written(tmp_path)
    surrogate = fitted_surrogate(results)
    assert surrogate is not None
    found = components(results, surrogate)
    assert [column.name for column in found] == ["0", "1", "2", "3"]
    # Discrepancies that are all the same say nothing (0.5), and correlate with nothing.
    assert {column.importance for column in found} == {0.5}
    assert [(one.lengthscales, one.effects) for one in agreements(found, ["a", "b"])] == [
        (None, None)
    ] * 2
    changes = effects(results, surrogate)
    x = np.array([each.vector for each in results.completed])
    low, high = x.copy(), x.copy()
    low[:, 2], high[:, 2] = 0.0, 1.0
    expected = surrogate.mean(high).mean(axis=0) - surrogate.mean(low).mean(axis=0)
    assert found[2].effects == pytest.approx(expected)
    assert changes.shape == (4, 2)
    assert found[1].fitted == pytest.approx(surrogate.lengthscales[:, 1])


def test_heat_maps_have_the_weights_of_the_front(tmp_path: Path) -> None:
    results = written(tmp_path)
    cells = weight_cells(results, "thinking")
    assert len(cells) == len(results.front) * 4
    best = max(results.front, key=lambda each: each.objectives or ())
    assert [cell.value for cell in cells[:4]] == list(best.layer_weights)
    assert {cell.row for cell in cells} == {short_id(each.id) for each in results.front}


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (Space("linear", 3, (0, 1, 2)), ["0", "1", "2"]),
        (Space("linear", 2, (0, 0, 1, 1)), ["0-1", "2-3"]),
        (Space("linear", 3, (0, None, 1), ("norm",)), ["0", "2", "norm"]),
        (
            Space("linear", 4, (0, 0), ("norm",), 3),
            ["0-1 coder", "0-1 writer", "norm coder", "norm writer"],
        ),
    ],
)
def test_components_are_named_by_what_they_weigh(space: Space, names: list[str]) -> None:
    assert component_names(space, ("coder", "writer", "chat")[: space.sources]) == names


def test_methods_without_a_model_have_weights_and_a_prior_alone(tmp_path: Path) -> None:
    results = written(tmp_path, algorithm={"name": "sobol"})
    assert fitted_surrogate(results) is None
    section = layers_section(results, None)
    assert section is not None
    assert [figure.name for figure in section.figures] == ["front-weights", "prior"]


def test_blocks_that_were_found_are_said_before_any_figure(tmp_path: Path) -> None:
    results = written(tmp_path)
    section = layers_section(results, None)
    assert section is not None
    assert section.paragraphs == ()
    results.run_state.borders = (1, 2, 3)
    results.run_state.spec = results.spec.model_copy(
        update={"merge": MergeSection(grain="adaptive", blocks=4)}
    )
    assert journal_snapshot(results.run_state)["found_blocks"] == ["0", "1", "2", "3"]
    section = layers_section(results, None)
    assert section is not None
    assert section.paragraphs == (
        "4 blocks of layers, found from how much the sources differ: 0; 1; 2; 3.",
    )


def test_a_model_level_method_shows_parameters(tmp_path: Path) -> None:
    results = written(tmp_path, POINTS[:2], algorithm={"name": "ta"})
    section = layers_section(results, fitted_surrogate(results))
    assert section is not None
    assert section.figures == ()
    assert section.tables[0].headings == ("evaluation", "weight")


def test_nothing_is_fitted_before_there_is_a_result(tmp_path: Path) -> None:
    assert fitted_surrogate(written(tmp_path, [], budget=2)) is None


def test_a_method_that_is_not_registered_here_has_no_model(tmp_path: Path) -> None:
    results = written(tmp_path, POINTS[:2], algorithm={"name": "of-another-project"})
    assert fitted_surrogate(results) is None
    section = layers_section(results, None)
    assert section is not None
    assert [figure.name for figure in section.figures] == ["front-weights", "prior"]
