"""What an inference engine is started with."""

from __future__ import annotations

from dataclasses import dataclass

EXTENSION = "rollout.weight_receiver.WeightReceiver"
BACKENDS = {  # vLLM's names of the channels; EXTENSION registers the first
    "object_store": "cardinal_object_store",
    "nccl": "nccl",
    "ipc": "ipc",
}
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
