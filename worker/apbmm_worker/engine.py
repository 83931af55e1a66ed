"""The resident vLLM engine: started once, then given one merge after another.

The only module that knows vLLM (with `engine_extension`, which runs inside it). What differs
between vLLM 0.24 and 0.33 is decided here, by what the installed one can do.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

from apbmm_common.errors import EvaluationError, RunFileError
from apbmm_common.runfile import Engine as EngineSettings
from apbmm_common.runfile import Generation
from apbmm_worker.engine_arguments import engine_arguments, versions
from apbmm_worker.engine_driver import Completion, EngineDriver, FinishReason, Prompt

T = TypeVar("T")

# Left out where this vLLM does not know them.
_OPTIONAL = frozenset({"kv_cache_memory_bytes", "use_tqdm_on_load"})


class ResidentEngine:
    """One vLLM engine on one device, answering from the checkpoint that was loaded last.

    ``checkpoint`` is the first one: config, tokenizer and generation config are taken from it and
    must be the same in every later one. `environment.apply` must have been called for ``device``
    before torch or vllm were imported. Raises `EvaluationError` (infrastructure) if the engine
    does not start, `RunFileError` for engine arguments that this vLLM does not have.
    """

    def __init__(
        self,
        settings: EngineSettings,
        generation: Generation,
        checkpoint: Path,
        device: str,
    ) -> None:
        self.arguments = engine_arguments(settings, generation, checkpoint, device)
        start = time.monotonic()
        try:
            self._driver = EngineDriver(lambda: _Backend(self.arguments, generation, checkpoint))
        except (EvaluationError, RunFileError):
            raise
        except Exception as error:
            raise EvaluationError(
                f"vLLM did not start: {type(error).__name__}: {error}",
                "the worker's log has vLLM's own account; [engine] arguments are passed to it",
                kind="infrastructure",
            ) from error
        self.start_seconds = time.monotonic() - start

    @property
    def usable(self) -> bool:
        """False once the engine has failed or a hot-load did not hold: replace it."""
        return self._driver.usable

    @property
    def steps(self) -> int:
        """Steps computed so far; grows while the engine is alive and has work."""
        return self._driver.steps

    def load(self, checkpoint: Path) -> None:
        """Hot-load a complete, finite checkpoint of the same architecture, and prove it.

        Raises `EvaluationError` (infrastructure) if vLLM fails half way or the live weights are
        not the checkpoint's; the engine is unusable after that.
        """
        self._driver.call(lambda backend: backend.load(checkpoint))

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        """Put prompts in flight, all at once and in this order."""
        return self._driver.submit(prompts)

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Answers to ``prompts``, in their order."""
        return [future.result() for future in self.submit(prompts)]

    def abort(self) -> None:
        """Drop all requests in flight."""
        self._driver.abort()

    def close(self) -> None:
        """Stop the engine and free its memory."""
        self._driver.close()

    def description(self) -> dict[str, Any]:
        """Versions and arguments, for the journal."""
        return {"versions": versions(), "arguments": {**self.arguments, "model": None}}


class _Backend:
    """vLLM's synchronous engine as `EngineDriver` wants it; lives on the driver's thread."""

    def __init__(self, arguments: dict[str, Any], generation: Generation, first: Path) -> None:
        from vllm import EngineArgs, LLMEngine

        known = {field.name for field in dataclasses.fields(EngineArgs)}
        unknown = sorted(set(arguments) - known - _OPTIONAL)
        if unknown:
            raise RunFileError(
                f"this vLLM ({versions()}) has no engine argument {', '.join(unknown)}"
            )
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(**{key: value for key, value in arguments.items() if key in known})
        )
        self._rpc("apbmm_end_with", os.getpid())
        self._generation = generation
        self._submitted: dict[str, float] = {}
        self._verify(first)

    def add(self, key: str, prompt: Prompt) -> None:
        self._engine.add_request(
            key, {"prompt_token_ids": list(prompt.token_ids)}, self._sampling(prompt)
        )
        self._submitted[key] = time.monotonic()

    def step(self) -> list[tuple[str, Completion]]:
        return [
            (output.request_id, self._completion(output))
            for output in self._engine.step()
            if output.finished
        ]

    def busy(self) -> bool:
        return bool(self._engine.has_unfinished_requests())

    def abort(self, keys: Sequence[str]) -> None:
        self._engine.abort_request(list(keys))
        self._submitted.clear()

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    def load(self, checkpoint: Path) -> None:
        self._rpc("reload_weights", weights_path=str(checkpoint))
        self._repack_head()
        self._verify(checkpoint)
        self._reset_prefix_cache()

    def _repack_head(self) -> None:
        self._rpc("apbmm_repack_head")

    def _reset_prefix_cache(self) -> None:
        # The cache is keyed by tokens alone: it would answer from the previous merge's weights.
        if self._watched(self._engine.reset_prefix_cache) is False:
            raise EvaluationError(
                "vLLM could not drop its prefix cache, which belongs to the previous merge",
                kind="infrastructure",
            )

    def _verify(self, checkpoint: Path) -> None:
        """Raise unless the live weights are the checkpoint's, on every card."""
        for compared, different in self._rpc("apbmm_verify", str(checkpoint)):
            if different:
                raise EvaluationError(
                    f"vLLM does not hold the weights of {checkpoint}: {different[0]} differs, "
                    f"with {len(different) - 1} more of {compared} compared",
                    "the engine is replaced; if it happens again, vLLM's reload does not work here",
                    kind="infrastructure",
                )
            if not compared:
                raise EvaluationError(
                    f"no live weight could be compared with {checkpoint}",
                    "hot-loading cannot be trusted with this architecture or quantisation",
                    kind="infrastructure",
                )

    def _rpc(self, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method of vLLM's worker, or of our extension, on every card."""
        return self._watched(
            lambda: list(self._engine.collective_rpc(method, args=args, kwargs=kwargs))
        )

    def _watched(self, call: Callable[[], T]) -> T:
        """Run ``call``, but do not wait for an engine that has died.

        vLLM notices the death of its engine process, but leaves whoever waits for the answer to
        such a call waiting.
        """
        resources = getattr(self._engine.engine_core, "resources", None)
        if resources is None:  # the engine is in this process
            return call()
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(call())
            except Exception as error:  # noqa: BLE001 - raised below
                answer.set_exception(error)

        threading.Thread(target=run, name="engine-call", daemon=True).start()
        while not wait([answer], timeout=0.5).done:
            if resources.engine_dead:
                raise EvaluationError("vLLM's engine process died", kind="infrastructure")
        return answer.result()

    def _sampling(self, prompt: Prompt) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        generation = self._generation
        return SamplingParams(
            temperature=generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            max_tokens=generation.max_tokens,
            # Greedy decoding draws nothing, and seeded requests are slower.
            seed=prompt.seed if generation.temperature > 0 else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _completion(self, output: Any) -> Completion:
        answer = output.outputs[0]
        reason: FinishReason
        match answer.finish_reason:
            case "stop" | "length" as reason:
                pass
            case other:
                raise EvaluationError(
                    f"vLLM ended a request with {other!r}, which is no answer",
                    kind="infrastructure",
                )
        return Completion(
            text=answer.text,
            token_ids=tuple(answer.token_ids),
            prompt_tokens=len(output.prompt_token_ids),
            finish_reason=reason,
            seconds=time.monotonic() - self._submitted.pop(output.request_id),
        )
