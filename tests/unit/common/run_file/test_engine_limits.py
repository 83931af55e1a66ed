"""A run file comes from another machine: which of vLLM's arguments it may not give."""

from __future__ import annotations

import pytest

from apbmm_common.errors import RunFileError
from apbmm_common.run_file.engine_limits import FOREIGN, RESERVED
from rehearsal_runs import run_spec


@pytest.mark.parametrize("name", sorted(FOREIGN | RESERVED))
def test_a_run_file_names_no_code_files_or_hosts_nor_what_apbmm_decides(name: str) -> None:
    with pytest.raises(RunFileError, match=f"engine.arguments: may not set {name} "):
        run_spec(engine={"arguments": {name: True}})


def test_all_forbidden_arguments_are_named_together() -> None:
    with pytest.raises(RunFileError) as caught:
        run_spec(engine={"arguments": {"seed": 1, "model": "x", "hf_token": "y"}})
    assert [fault.partition(" (hint: ")[0] for fault in caught.value.faults] == [
        "engine.arguments: may not set model, seed",
        "engine.arguments: may not set hf_token",
    ]


def test_other_arguments_are_taken() -> None:
    arguments = {"max_num_seqs": 8, "enable_prefix_caching": False}
    assert run_spec(engine={"arguments": arguments}).engine.arguments == arguments
