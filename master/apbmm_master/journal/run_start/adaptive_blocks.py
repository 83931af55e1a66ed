"""The blocks of a run with ``grain = "adaptive"``: found once, from the measured discrepancies.

The borders decide what a vector means, so they are an event of the journal and not computed anew:
a resumed run, another version and an export read the same ones.
"""

from __future__ import annotations

from collections.abc import Callable

from apbmm_common.protocol.messages import Measured
from apbmm_master.journal.events import AnyEvent, BordersFound
from apbmm_master.journal.state.evaluations import MEASURE
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.search.block_partition import block_borders
from apbmm_master.search.prior import fused_discrepancy


def find_borders(run_state: RunState, record: Callable[[AnyEvent], None]) -> None:
    """Record where the blocks of a run begin, once that can be found.

    Layers that are not searched are left out, and join the block before them.
    """
    measure = run_state.evaluations.get(MEASURE)
    found = None if measure is None else measure.body
    spec = run_state.spec
    if run_state.has_space or spec is None or not isinstance(found, Measured):
        return
    assert spec.merge.blocks is not None
    identical = run_state.identical_layers if spec.merge.combine == "simplex" else ()
    layers = [layer for layer in range(run_state.layers) if layer not in identical]
    parameter, activation = (
        [column[layer] for layer in layers] for column in (found.parameter, found.activation)
    )
    profile = fused_discrepancy(parameter, activation, spec.prior.parameter_share)
    borders = block_borders(profile, spec.merge.blocks)
    record(BordersFound(borders=tuple(layers[border] for border in borders)))
