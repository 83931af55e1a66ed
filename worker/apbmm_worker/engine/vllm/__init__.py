"""apbmm_worker.engine.resident.vllm."""
