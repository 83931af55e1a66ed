"""vLLM's synchronous engine as an `EngineBackend`; used on the driver's thread only."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

from apbmm_common.errors import EvaluationError
from apbmm_common.run_file import GenerationSection
from apbmm_worker.engine.driver import Completion, FinishReason, Prompt
from apbmm_worker.engine.vllm import features, start_failure
from apbmm_worker.merging.planning.plan import TensorPlan
from apbmm_worker.merging.stream import to_bytes

T = TypeVar("T")


class VllmBackend:
    """One engine that holds the checkpoint ``first``, and later other merges.

    Raises `EvaluationError` (infrastructure) if its processes do not start, or if it does not hold
    that checkpoint's weights.
    """

    def __init__(
        self, arguments: dict[str, Any], generation: GenerationSection, first: Path
    ) -> None:
        self._engine = _started(arguments)
        features.wake_when_dead(self._engine)
        self._rpc("apbmm_end_with", os.getpid())
        self._generation = generation
        self._submitted: dict[str, tuple[Prompt, float]] = {}
        self.compared_all = False
        """Whether all tensors of the last load could be compared with the live weights."""
        self.weights_digest = ""
        self._verify(first)

    def add(self, key: str, prompt: Prompt) -> None:
        """Take a request in. What an answer begins with is part of the prompt for vLLM."""
        given = [*prompt.token_ids, *prompt.begun]
        self._engine.add_request(key, {"prompt_token_ids": given}, self._sampling(prompt))
        self._submitted[key] = (prompt, time.monotonic())

    def step(self) -> list[tuple[str, Completion]]:
        """Compute one step; the requests that it finished."""
        return [(output.request_id, self._completion(output)) for output in self._outputs()]

    def busy(self) -> bool:
        """Whether requests are unfinished."""
        return bool(self._engine.has_unfinished_requests())

    def unfinished(self, keys: Sequence[str]) -> list[tuple[str, Completion]]:
        """What there is of the answers to unfinished requests."""
        tokens, now = features.tokens_so_far(self._engine), time.monotonic()
        found = []
        for key in keys:
            prompt, began = self._submitted[key]
            answer = (*prompt.begun, *tokens[key])
            found.append((key, Completion("", answer, len(prompt.token_ids), "cut", now - began)))
        return found

    def token_counts(self, keys: Sequence[str]) -> dict[str, int]:
        """How many tokens there are of the answers to unfinished requests."""
        tokens = features.tokens_so_far(self._engine)
        return {key: len(self._submitted[key][0].begun) + len(tokens[key]) for key in keys}

    def abort(self, keys: Sequence[str]) -> None:
        """Drop requests."""
        self._engine.abort_request(list(keys))
        self._submitted.clear()

    def close(self) -> None:
        """End the engine and its processes."""
        self._engine.engine_core.shutdown()

    def load(self, checkpoint: Path) -> None:
        """Have vLLM reload its weights from a checkpoint folder."""
        self._require(self._rpc("apbmm_load_folder", str(checkpoint)), f"those of {checkpoint}")
        self._reset_prefix_cache()

    def load_merge(self, plans: Sequence[TensorPlan]) -> None:
        """Merge from the sources into the live model."""
        self._require(self._rpc("apbmm_load_merge", to_bytes(plans)), "those of the merge")
        self._reset_prefix_cache()

    def state(self, checkpoint: Path, prompts: Sequence[Prompt], tokens: int) -> tuple[Any, ...]:
        """Digests of the model on each card, and the first greedy tokens for each prompt."""
        return (*self._rpc("apbmm_fingerprint", str(checkpoint)), self.greedy(prompts, tokens))

    def greedy(self, prompts: Sequence[Prompt], tokens: int) -> tuple[tuple[int, ...], ...]:
        """The first ``tokens`` greedy tokens for each prompt, whatever ends an answer.

        The prompts are asked one after the other. An engine in a process of its own, as on a card,
        begins with the first of several requests while the others are on their way. Rounding
        differs between batches, so that equal weights would not always answer alike.
        """
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        answers = []
        for number, prompt in enumerate(prompts):
            request = {"prompt_token_ids": list(prompt.token_ids)}
            self._engine.add_request(f"greedy-{number}", request, sampling)
            while self._engine.has_unfinished_requests():
                answers += [tuple(output.outputs[0].token_ids) for output in self._outputs()]
        self._reset_prefix_cache()
        return tuple(answers)

    def _outputs(self) -> list[Any]:
        """What one step has finished. Raises `EvaluationError` if the engine's process is dead."""
        try:
            return [output for output in self._engine.step() if output.finished]
        except Exception as error:
            if features.engine_process_died(self._engine):
                raise _engine_died() from error
            raise

    def _reset_prefix_cache(self) -> None:
        # The cache is keyed by tokens alone: it would answer from the previous merge's weights.
        if self._watched(self._engine.reset_prefix_cache) is False:
            raise EvaluationError(
                "vLLM could not drop its prefix cache, which belongs to the previous merge",
                kind="infrastructure",
            )

    def _verify(self, checkpoint: Path) -> None:
        self._require(self._rpc("apbmm_verify", str(checkpoint)), f"those of {checkpoint}")

    def _require(self, verdicts: Sequence[dict[str, Any]], wanted: str) -> None:
        """Raise `EvaluationError` unless every card holds the wanted weights."""
        self.compared_all = True
        digests = {verdict.get("digest", "") for verdict in verdicts}
        self.weights_digest = digests.pop() if len(digests) == 1 else ""
        for verdict in verdicts:
            if "message" in verdict:
                raise EvaluationError(verdict["message"], verdict["hint"], kind=verdict["kind"])
            compared = verdict["compared"]
            different = verdict["different"]
            if different:
                raise EvaluationError(
                    f"vLLM's weights are not {wanted}: {different[0]} differs, "
                    f"with {len(different) - 1} more of {compared} compared",
                    "the engine is replaced; if it happens again, vLLM's reload does not work here",
                    kind="infrastructure",
                )
            self.compared_all = self.compared_all and compared == verdict["tensors"]
            if not compared:
                raise EvaluationError(
                    f"no live weight could be compared with {wanted}",
                    "hot-loading cannot be trusted with this architecture or quantisation",
                    kind="infrastructure",
                )

    def _rpc(self, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method of vLLM's worker, or of its extension, on every card."""
        return self._watched(
            lambda: list(self._engine.collective_rpc(method, args=args, kwargs=kwargs))
        )

    def _watched(self, call: Callable[[], T]) -> T:
        """Run ``call``; raise `EvaluationError` if the engine's process dies meanwhile.

        vLLM notices that its engine process died, but a caller that waits for the answer to such a
        call would wait forever.
        """
        if features.engine_process_died(self._engine) is None:
            return call()
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(call())
            except Exception as error:  # noqa: BLE001 - raised below
                answer.set_exception(error)

        threading.Thread(target=run, name="engine-call", daemon=True).start()
        while not wait([answer], timeout=features.DEATH_SECONDS).done:
            if features.engine_process_died(self._engine):
                raise _engine_died()
        return answer.result()

    def _sampling(self, prompt: Prompt) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        generation = self._generation
        return SamplingParams(
            temperature=generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            max_tokens=generation.max_tokens - len(prompt.begun),
            # Greedy decoding draws nothing, and seeded requests are slower.
            seed=prompt.draws if generation.temperature > 0 else None,
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
        prompt, began = self._submitted.pop(output.request_id)
        tokens, text = (*prompt.begun, *answer.token_ids), answer.text
        if prompt.begun:
            sampling = self._sampling(prompt)
            text = features.text_of(self._engine, prompt.token_ids, tokens, sampling, reason)
        return Completion(
            text=text,
            token_ids=tokens,
            prompt_tokens=len(prompt.token_ids),
            finish_reason=reason,
            seconds=time.monotonic() - began,
        )


def _started(arguments: dict[str, Any]) -> Any:
    """A new engine. Raises `EvaluationError` with the error of a process that did not start."""
    since = start_failure.written()
    try:
        return features.new_engine(arguments)
    except Exception as error:
        cause = start_failure.cause_of(error, since)
        if not cause:
            raise
        raise EvaluationError(
            f"vLLM did not start: {cause}",
            "the worker's child.log has all of it; gpu_memory_utilization and arguments in "
            "[engine], or apbmm-worker --engine-arg, are passed to vLLM",
            kind="infrastructure",
        ) from error


def _engine_died() -> EvaluationError:
    return EvaluationError(
        "vLLM's engine process died",
        "the worker's child.log has its last words, as of a card without memory; if it has none, "
        "the host may have run out of memory",
        kind="infrastructure",
    )
