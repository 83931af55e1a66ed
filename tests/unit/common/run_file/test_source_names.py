"""Sources under names of the user's choice: their order, and what the names decide."""

from __future__ import annotations

from typing import Any

import pytest

from apbmm_common.errors import RunFileError
from apbmm_common.protocol.codec import decode, encode
from apbmm_common.protocol.messages import FROM_MASTER, Welcome
from apbmm_common.run_file import RunSpec, load_run_file, parse_run, reference_vector
from commands import REPOSITORY
from rehearsal_runs import run_table


def table_of(sources: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**run_table(**changes), "sources": sources}


def spec_of(*names: str, **changes: Any) -> RunSpec:
    return parse_run(table_of({name: f"/{name}" for name in names}, **changes), "test")


def faults_of(sources: dict[str, Any], **changes: Any) -> list[str]:
    with pytest.raises(RunFileError) as caught:
        parse_run(table_of(sources, **changes), "run.toml")
    return list(caught.value.faults)


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        ({"thinking": "t", "instruct": "i"}, ("thinking", "instruct")),
        ({"instruct": "i", "thinking": "t"}, ("thinking", "instruct")),
        ({"instruct": "i", "base": "b", "thinking": "t"}, ("thinking", "instruct")),
        ({"coder": "c", "chat": "h"}, ("coder", "chat")),
        ({"chat": "h", "coder": "c"}, ("chat", "coder")),
        ({"chat": "h", "coder": "c", "anchor": "chat"}, ("coder", "chat")),
        ({"thinking": "t", "instruct": "i", "anchor": "thinking"}, ("instruct", "thinking")),
    ],
)
def test_the_anchor_is_the_last_source_unless_the_file_says_otherwise(
    sources: dict[str, str], names: tuple[str, ...]
) -> None:
    spec = parse_run(table_of(sources), "test")
    assert spec.sources.names == names
    assert spec.sources.folders == {name: sources[name] for name in names}
    over_the_wire = decode(
        encode(Welcome(run="r", epoch=1, spec=spec.model_dump(mode="json"))), FROM_MASTER
    )
    assert isinstance(over_the_wire, Welcome)
    assert RunSpec.model_validate(over_the_wire.spec).sources.names == names


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({}, "from 2 to 8 sources are merged, not none"),
        ({"coder": "c"}, "sources are merged, not 1 (coder)"),
        ({f"s{chr(97 + n)}": "p" for n in range(9)}, "not 9 (sa, sb"),
        ({"a.b": "c", "d": "e"}, "sources: 'a.b' cannot name a source: 1 to 32 letters"),
        ({"9a": "c", "d": "e"}, "sources: '9a' cannot name a source"),
        ({"e0001": "c", "d": "e"}, "sources: e0001 cannot name a source: it means something"),
        ({"mean": "c", "d": "e"}, "sources: mean cannot name a source: it means something"),
        ({"a": "c", "d": "e", "anchor": "f"}, "sources: anchor: no source is called f: a, d"),
        ({"a": 3, "d": "e"}, "sources.a: must be text, not 3"),
    ],
)
def test_names_that_cannot_be(sources: dict[str, Any], words: str) -> None:
    assert any(words in fault for fault in faults_of(sources)), faults_of(sources)


def test_what_is_not_said_follows_from_the_order_of_two_sources() -> None:
    spec = spec_of("coder", "chat")
    assert spec.generation.template_from == "coder"
    assert [(o.name, o.expert, o.vanilla) for o in spec.objectives] == [
        ("reasoning", "coder", "chat"),
        ("cost", "chat", "coder"),
    ]


def test_every_key_that_names_a_source_is_checked() -> None:
    changes = {
        "generation": {"template_from": "thinking"},
        "merge": {"outside_layers": "median"},
        "objectives": [
            {"name": "a", "metric": "accuracy", "expert": "coder", "vanilla": "instruct"},
            {"name": "b", "metric": "tokens", "expert": "thinking", "vanilla": "chat"},
        ],
        "benchmarks": [{"name": "chat", "adapter": "a", "path": "p"}],
    }
    known = "must be one of coder, chat"
    assert sorted(faults_of({"coder": "c", "chat": "h"}, **changes)) == [
        "benchmarks: a benchmark cannot be called chat: that names another path",
        f"generation: template_from: no source is called thinking: {known}",
        "merge: outside_layers: no source is called median: must be one of mean, own, coder, chat",
        f"objectives: objective a: vanilla: no source is called instruct: {known}",
        f"objectives: objective b: expert: no source is called thinking: {known}",
    ]


TASK_VECTORS = {"combine": "task_arithmetic"}


def test_task_vectors_need_a_base_of_their_own() -> None:
    sources = {"coder": "/c", "chat": "/h"}
    assert faults_of(sources, merge=TASK_VECTORS) == [
        "merge: combine: task_arithmetic adds to a base: name it as base in [sources]"
    ]
    assert faults_of({**sources, "base": "/h"}, merge=TASK_VECTORS) == [
        "merge: combine: chat is the base itself, so it has no task vector"
    ]
    (fault,) = faults_of({**sources, "base": "/b"}, merge=TASK_VECTORS, algorithm={"name": "ties"})
    assert fault == "algorithm: merge.combine has no effect on ties, which merges whole models"
    spec = parse_run(table_of({**sources, "base": "/b"}, merge=TASK_VECTORS), "test")
    assert spec.config_hash({}) != parse_run(table_of({**sources, "base": "/b"}), "t").config_hash(
        {}
    )


def test_a_worker_maps_the_paths_of_sources_by_their_names() -> None:
    assert (
        spec_of("coder", "chat").named_paths().items()
        >= {"coder": "/coder", "chat": "/chat"}.items()
    )


def test_names_and_order_are_part_of_what_is_measured() -> None:
    digests = {"a": "1", "b": "2", "thinking": "1", "instruct": "2"}
    of_pairs = {
        names: spec_of(*names, generation={"template_from": "a"}).config_hash(digests)
        for names in (("a", "b"), ("b", "a"))
    }
    assert len(set(of_pairs.values())) == 2
    papers = [
        spec_of(*names).config_hash(digests)
        for names in (("thinking", "instruct"), ("instruct", "thinking"))
    ]
    assert papers[0] == papers[1]
    assert spec_of("a", "b").without_paths()["sources"] == "a, b"


def test_the_vector_of_a_reference_has_ones_for_the_first_of_two_and_zeros_for_the_anchor() -> None:
    sources = spec_of("coder", "chat").sources
    assert reference_vector(sources, "coder", 3) == (1.0, 1.0, 1.0)
    assert reference_vector(sources, "chat", 3) == (0.0, 0.0, 0.0)


def test_a_run_of_an_earlier_version_keeps_its_hash() -> None:
    """Results in its journal are known by it."""
    run_file = REPOSITORY / "tests" / "fixtures" / "run_directory_of_protocol_2" / "run.toml"
    found = load_run_file(run_file).config_hash({"thinking": "1", "instruct": "2"})
    assert found == "a10d72b6ea95d0065a7a2649b8bfb26bbffa766d5f94dd493b6f08b8a743c3bc"


def test_a_source_may_be_an_adapter_on_a_model() -> None:
    adapted = {"path": "base", "adapter": "lora"}
    spec = parse_run(table_of({"thinking": adapted, "instruct": "base"}), "test")
    assert spec.sources.folders == {"thinking": "base", "instruct": "base"}
    assert spec.sources.lora_adapters == {"thinking": "lora"}
    paths = spec.named_paths()
    assert (paths["thinking"], paths["thinking.adapter"]) == ("base", "lora")
    assert "lora" not in str(spec.without_paths())
    assert RunSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_faults_of_an_adapted_source_are_named() -> None:
    adapted = {"path": 3, "adaptor": "lora"}
    faults = faults_of({"thinking": adapted, "instruct": 5})
    assert "sources.thinking.path: must be text, not 3" in faults
    assert "sources.thinking.adapter: missing" not in faults
    assert "sources.thinking.adaptor: unknown key: did you mean adapter?" in faults
    assert "sources.instruct: must be text, not 5" in faults
