"""What an inference engine is started with, and vLLM's words for it."""

from __future__ import annotations

import os
from dataclasses import dataclass

EXTENSION = "rollout.weight_receiver.WeightReceiver"
BACKENDS = {  # vLLM's names of the channels; EXTENSION registers the first
    "object_store": "cardinal_object_store",
    "nccl": "nccl",
    "ipc": "ipc",
}
PREFILL_TOKENS = 8192  # of short contexts
# Some folders hold a model twice, the other time in Mistral's own files, which vLLM prefers; it
# must read those that were checked and that the learner reads.
FORMATS = {"config_format": "hf", "load_format": "hf", "tokenizer_mode": "hf"}


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is started with.

    folder: Hugging Face model folder.
    dtype: float32 or bfloat16.
    max_sequences: most sequences that run at once.
    context_tokens: cap of prompt and answer, tokens.
    forbidden: token ids that are never sampled.
    stop_ids: token ids that end an answer.
    images: most pictures in a prompt; 0 for a model of text alone.
    kv_cache_gib: KV cache on a CPU, GiB.
    gpu_memory: share of a GPU's memory for the engine.
    tensor_parallel: GPUs of the engine.
    threads: compute threads on a CPU.
    seed: of the stream that requests without a seed share.
    extension: worker extension class, by qualified name.
    channel: how weights arrive, a key of BACKENDS.
    sleep_mode: whether the engine can `sleep`; GPUs only.
    reads_weights: whether it reads the folder's at its start; else they are random until an update.
    """

    folder: str
    dtype: str = "float32"
    max_sequences: int = 64
    context_tokens: int = 1024
    forbidden: tuple[int, ...] = ()
    stop_ids: tuple[int, ...] = ()
    images: int = 0
    kv_cache_gib: float = 1.0
    gpu_memory: float = 0.85
    tensor_parallel: int = 1
    threads: int = 1
    seed: int = 0
    extension: str = EXTENSION
    channel: str = "object_store"
    sleep_mode: bool = False
    reads_weights: bool = True


def formats(settings: EngineSettings) -> dict[str, str]:
    """How vLLM reads the folder."""
    return FORMATS if settings.reads_weights else FORMATS | {"load_format": "dummy"}


def batch_tokens(sequences: int, context: int) -> int:
    """How many tokens vLLM computes at once at most: no more than all sequences can have.

    Its trial at a GPU's start spreads as many over the sequences, unchecked: of ones longer than
    the context attention reads past the block table (as vllm-project/vllm#53658; read, not run).
    """
    return min(max(PREFILL_TOKENS, context), sequences * context)


def set_environment(settings: EngineSettings) -> None:
    """Set the variables that vLLM reads at import and in its child processes."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is the caller's
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    # Threads that spin where they wait take the cores of the worker and its environments.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if settings.channel == "ipc":  # vLLM's frontend and core pickle CUDA handles to each other
        os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        # It has torch compile a comparison by g++ at the first request: 20 s on a new machine, 5 s
        # later, and an error where there is no compiler. A GPU's engine compiles before it serves.
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")


def arguments_of(settings: EngineSettings) -> dict[str, object]:
    """Keywords of vLLM's AsyncEngineArgs."""
    from vllm.config import WeightTransferConfig
    from vllm.platforms import current_platform
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    arguments: dict[str, object] = {
        **formats(settings),
        "model": settings.folder,
        "dtype": settings.dtype,
        "max_num_seqs": settings.max_sequences,
        "max_model_len": settings.context_tokens,
        "max_num_batched_tokens": batch_tokens(settings.max_sequences, settings.context_tokens),
        "seed": settings.seed,
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "tensor_parallel_size": settings.tensor_parallel,
        "weight_transfer_config": WeightTransferConfig(backend=BACKENDS[settings.channel]),
        "worker_extension_cls": settings.extension,
        "generation_config": "vllm",
        "enable_sleep_mode": settings.sleep_mode,
    }
    if settings.images:
        arguments["limit_mm_per_prompt"] = {"image": settings.images}
    if current_platform.is_cpu():
        arguments["enforce_eager"] = True
        arguments["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * 2**30)
        if settings.tensor_parallel == 1:
            # Named as a class, or vLLM puts the worker into one more process and binds its
            # threads, which costs time on few cores (start 29 s against 16 s).
            arguments["distributed_executor_backend"] = UniProcExecutor
        # A prompt in chunks makes vLLM rewind its request's generator; a CPU's cannot.
        arguments["enable_chunked_prefill"] = False
    else:
        arguments["gpu_memory_utilization"] = settings.gpu_memory
    return arguments
