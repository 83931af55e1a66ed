"""One view of what differs between versions of vLLM, with workers as other versions have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from apbmm_worker.engine.vllm import features

NAME = "norm.weight"


class FakeOlderWorker:
    """Reloads as the workers of vLLM 0.24 to 0.26 do, which set no configuration themselves."""

    def __init__(self) -> None:
        self.vllm_config = object()
        self.configuration: object = None
        self.weights_path: str | None = None
        self.kept: dict[str, torch.Tensor] = {}

    def reload_weights(
        self,
        weights_iterator: Iterable[tuple[str, torch.Tensor]] | None = None,
        weights_path: str | None = None,
    ) -> None:
        from vllm.config import get_current_vllm_config

        self.kept = dict(weights_iterator or ())
        self.weights_path = weights_path
        self.configuration = get_current_vllm_config()


@pytest.mark.vllm
@pytest.mark.filterwarnings("default")  # vLLM's own
@pytest.mark.parametrize(
    "reload",
    [
        lambda worker: features.reload_from_folder(worker, "merge"),
        lambda worker: features.reload_from_stream(worker, [(NAME, torch.ones(2))]),
    ],
)
def test_a_reload_has_vllms_configuration(reload: Callable[[Any], None]) -> None:
    from vllm.config import get_current_vllm_config_or_none

    worker = FakeOlderWorker()
    reload(worker)
    assert worker.weights_path == "merge" or worker.kept.keys() == {NAME}
    assert worker.configuration is worker.vllm_config
    assert get_current_vllm_config_or_none() is None


@pytest.mark.vllm
@pytest.mark.filterwarnings("default")  # vLLM's own
def test_a_reload_keeps_what_a_stream_writes_over() -> None:
    worker, buffer = FakeOlderWorker(), torch.zeros(2)

    def tensors() -> Iterable[tuple[str, torch.Tensor]]:
        for number, name in enumerate(("first", "second")):
            yield name, buffer.fill_(number)

    features.reload_from_stream(worker, tensors())
    assert [value.tolist() for value in worker.kept.values()] == [[0.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    "derived",
    [
        ("reset_encoder_cache", "reset_mm_cache"),  # vLLM 0.24 to 0.27
        ("reset_lora_state", "reset_encoder_cache", "reset_mm_cache"),
    ],
)
def test_all_that_a_runner_derives_from_weights_is_dropped(derived: tuple[str, ...]) -> None:
    dropped: list[str] = []
    runner = SimpleNamespace(**{name: lambda name=name: dropped.append(name) for name in derived})
    features.forget_derived(SimpleNamespace(model_runner=runner))
    assert tuple(dropped) == derived


@pytest.mark.parametrize(
    ("core", "died"),
    [
        (SimpleNamespace(), None),  # in this process
        (SimpleNamespace(resources=SimpleNamespace(engine_dead=False)), False),
        (SimpleNamespace(resources=SimpleNamespace(engine_dead=True)), True),
    ],
)
def test_whether_an_engines_process_has_died(core: object, died: bool | None) -> None:
    assert features.engine_process_died(SimpleNamespace(engine_core=core)) is died


@pytest.mark.vllm
@pytest.mark.filterwarnings("default")  # vLLM's own
def test_as_many_requests_at_a_time_as_for_offline_inference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than for an engine whose use is not known."""
    from vllm import EngineArgs, LLMEngine
    from vllm.config import SchedulerConfig

    contexts: list[Any] = []
    monkeypatch.setattr(LLMEngine, "from_engine_args", lambda _, context: contexts.append(context))
    features.new_engine({"model": "merge"})
    _, requests = EngineArgs.get_batch_defaults(1)
    assert requests[contexts[0]] > SchedulerConfig.DEFAULT_MAX_NUM_SEQS
