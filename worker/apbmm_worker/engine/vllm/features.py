"""Differences between vLLM 0.24 and 0.33, behind one set of functions.

Each function looks at what the installed vLLM has, not at its version number.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import torch

from apbmm_common.process.large_imports import import_large
from apbmm_worker.environment import BATCH_INVARIANT

DEATH_SECONDS = 0.5
"""A dead engine process is noticed after so long."""


def argument_types() -> dict[str, Any]:
    """vLLM's engine arguments by name, with their types."""
    from vllm import EngineArgs

    return {
        # A few types are known to type checkers only, and are strings here.
        field.name: Any if isinstance(field.type, str) else field.type
        for field in dataclasses.fields(EngineArgs)
    }


def new_engine(arguments: dict[str, Any]) -> Any:
    """vLLM's synchronous engine.

    Leaves out arguments that this vLLM does not have. Those of users were checked before
    (`kind.arguments`), and none of apbmm's own changes an answer. What is not given is as in
    vLLM's class for offline inference, whose requests all come at once: on a card 256 or 1,024 of
    them at a time, not 128, and 8,192 or 16,384 tokens a step, not 2,048.
    """
    import_large("vllm.engine.llm_engine")
    from vllm import EngineArgs, LLMEngine
    from vllm.usage.usage_lib import UsageContext

    known = argument_types()
    given = EngineArgs(**{key: value for key, value in arguments.items() if key in known})
    return LLMEngine.from_engine_args(given, UsageContext.LLM_CLASS)


def has_batch_invariance() -> bool:
    """Whether vLLM's answers can be made independent of their batch."""
    from vllm import envs

    return BATCH_INVARIANT in envs.environment_variables


def engine_process_died(engine: Any) -> bool | None:
    """Whether the engine's process has died; None when the engine is in this process."""
    resources = getattr(engine.engine_core, "resources", None)
    return None if resources is None else bool(resources.engine_dead)


def wake_when_dead(engine: Any) -> None:
    """Have a step end with an error when the engine's process dies; nothing to do in this process.

    vLLM puts an engine's last error among its outputs. A process that was killed leaves none, and
    vLLM's synchronous client, which notices its end, goes on waiting for outputs.
    """
    if engine_process_died(engine) is None:
        return
    resources, outputs = engine.engine_core.resources, engine.engine_core.outputs_queue

    def watch() -> None:
        while not resources.engine_dead:
            time.sleep(DEATH_SECONDS)
        outputs.put(RuntimeError("the engine's process died"))

    threading.Thread(target=watch, name="engine-death", daemon=True).start()


def tokens_so_far(engine: Any) -> dict[str, Sequence[int]]:
    """The tokens that unfinished requests have generated, by the id that they were added with.

    They are vLLM's own lists, to which its next step appends. vLLM gives them out for requests with
    outputs after every step only, which are slower.
    """
    return {
        getattr(state, "external_req_id", None)
        or state.request_id: state.detokenizer.output_token_ids
        for state in engine.output_processor.request_states.values()
    }


def text_of(
    engine: Any, prompt: Sequence[int], answer: Sequence[int], sampling: Any, reason: str
) -> str:
    """The text that vLLM gives an answer to a prompt, whose finish reason is ``reason``."""
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    request = SimpleNamespace(
        request_id="",
        prompt_token_ids=list(prompt),
        prompt_embeds=None,
        sampling_params=sampling,
    )
    tokenizer = engine.output_processor.tokenizer
    detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, request)
    detokenizer.update(list(answer), reason == "stop")
    return str(detokenizer.get_next_output_text(finished=True, delta=False))


def computing_dtype(worker: Any) -> torch.dtype:
    """The dtype that a worker's model computes in.

    The dtype of its parameters may be another: where a packed copy has replaced a parameter, some
    versions leave an empty tensor of another dtype.
    """
    dtype: torch.dtype = worker.model_runner.model_config.dtype
    return dtype


def reload_from_folder(worker: Any, folder: str) -> None:
    """vLLM's own reload from a checkpoint folder."""
    with _configured(worker):
        worker.reload_weights(weights_path=folder)


def reload_from_stream(worker: Any, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """vLLM's own reload from tensors in a checkpoint's format.

    The tensors are copied, because vLLM keeps them until a module is complete.
    """
    with _configured(worker):
        worker.reload_weights(weights_iterator=((name, value.clone()) for name, value in tensors))


def forget_derived(worker: Any) -> None:
    """Drop what a model runner derived from the old weights, as vLLM's own reload does."""
    for name in ("reset_lora_state", "reset_encoder_cache", "reset_mm_cache"):
        reset = getattr(worker.model_runner, name, None)
        if reset is not None:
            reset()


def _configured(worker: Any) -> AbstractContextManager[None]:
    """Make the worker's configuration the current one, as it is when vLLM first loads a model.

    Kernels of quantised experts ask for it after their weights are loaded, and a reload fails
    without it. vLLM 0.24 to 0.26 do not set it: https://github.com/vllm-project/vllm/pull/45989
    """
    from vllm.config import set_current_vllm_config

    current: AbstractContextManager[None] = set_current_vllm_config(worker.vllm_config)
    return current
