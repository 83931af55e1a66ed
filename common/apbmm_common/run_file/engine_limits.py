"""Which of vLLM's own arguments a run file may not give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

RESERVED = frozenset(
    {"model", "tokenizer", "dtype", "max_model_len", "tensor_parallel_size", "seed"}
    | {"worker_extension_cls", "gpu_memory_utilization", "trust_remote_code"}
)
"""Arguments that other keys of the run file decide, or the worker."""
FOREIGN = frozenset(
    {"worker_cls", "scheduler_cls", "logits_processors", "distributed_executor_backend"}
    | {"io_processor_plugin", "reasoning_parser_plugin"}
    | {"load_format", "config_format", "tokenizer_mode", "code_revision", "hf_token"}
    | {"model_weights", "hf_config_path", "download_dir", "allowed_local_media_path"}
    | {"log_config_file", "spec_model", "otlp_traces_endpoint", "master_addr"}
    | {"data_parallel_address", "generation_config"}
    | {"mm_encoder_fp8_scale_path", "mm_encoder_fp8_scale_save_path"}
)
"""Arguments that name code, files or hosts: a run file comes from another machine."""


def forbidden_arguments(arguments: Iterable[str]) -> Iterator[str]:
    """What is wrong with the names in a run file's ``engine.arguments``, one line each."""
    for names, reason in (
        (RESERVED, "other tables of the run file decide these, or the worker does"),
        (FOREIGN, "a run file may not name code, files or hosts"),
    ):
        if found := sorted(names & set(arguments)):
            yield f"may not set {', '.join(found)} (hint: {reason})"
