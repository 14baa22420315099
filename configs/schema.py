"""The keys of a run: their types, defaults, meanings and allowed values, in one place.

Each section is a frozen dataclass, each key a `leaf`. `configs.load` reads YAML into them,
`configs.contradictions` holds what excludes what. Each environment declares its settings so too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from configs.leaf import leaf
from configs.training import OptimizerConfig as OptimizerConfig
from configs.training import PPOConfig, SFTConfig

PRESETS = ("fixed", "paper_text", "paper_code")
TRACKERS = ("none", "wandb", "mlflow")
PACKINGS = ("auto", "padded", "packed", "flat")
FLASH_ATTENTION = ("flash_attention_2", "flash_attention_3")
GPU_ATTENTION = (*FLASH_ATTENTION, "flex_attention")  # no backward pass on a CPU
LONGEST_S = 1e7  # of a deadline, 116 days; calendars and sums of deadlines end somewhere
BEST_MEASURES = ("success", "first_try", "reward")  # of an evaluation, for learner.keep_best


def _seconds(default: float, meaning: str, low: float = 1) -> Any:
    """A leaf of seconds."""
    return leaf(default, meaning, low=low, high=LONGEST_S)


@dataclass(frozen=True)
class TinyVisionConfig:
    """The vision tower of a tiny model, made when its environment shows pictures."""

    layers: int = leaf(3, "transformer layers of the vision tower", low=1)
    hidden: int = leaf(128, "its width", low=8)
    heads: int = leaf(4, "its attention heads; divides hidden", low=1)
    mlp: int = leaf(512, "width of its feed-forward layers", low=8)
    image_size: int = leaf(
        128, "longest side of a picture, pixels; larger ones are refused", low=16
    )
    patch_size: int = leaf(16, "side of a patch, pixels; divides image_size", low=4)
    merge: int = leaf(2, "patches per side that become one token of the trunk", low=1)


@dataclass(frozen=True)
class TinyModelConfig:
    """A Llama made from scratch, with a tokenizer trained on the environment's own text.

    Where the environment shows pictures it is an Idefics3 (the family of SmolVLM).
    """

    layers: int = leaf(4, "transformer layers", low=1)
    hidden: int = leaf(128, "width of the residual stream", low=8)
    heads: int = leaf(4, "attention heads; divides hidden", low=1)
    mlp: int = leaf(512, "width of the feed-forward layers", low=8)
    vision: TinyVisionConfig = leaf(TinyVisionConfig, "its vision tower, where there are pictures")


@dataclass(frozen=True)
class ModelConfig:
    """Which policy is trained."""

    path: str | None = leaf(
        None, "folder, or name on the hub, of a (vision-)language model; null makes a tiny one"
    )
    init: TinyModelConfig = leaf(TinyModelConfig, "the tiny model that is made when path is null")
    dtype: str = leaf("float32", "of weights and compute", choices=("float32", "bfloat16"))
    attention: str = leaf(
        "auto",
        "the learner's implementation, as transformers names it; auto: flash_attention_2 where it "
        "can run, else sdpa, else eager; none that would compute another model",
        choices=("auto", "sdpa", "eager", *GPU_ATTENTION),
    )
    freeze: str = leaf(
        "none",
        "parts of a vision-language model that are not trained",
        choices=("none", "vision", "vision+projector"),
    )
    gradient_checkpointing: bool = leaf(False, "recompute activations in the backward pass")
    lora_rank: int = leaf(0, "rank of trained LoRA adapters; 0 trains all weights", low=0)
    lora_alpha: int = leaf(32, "adapters are scaled by lora_alpha / lora_rank", low=1)
    lora_targets: list[str] = leaf(
        [], "names of the linear layers with adapters; none given: all but the output layer"
    )


@dataclass(frozen=True)
class EnvConfig:
    """The environment of the episodes."""

    id: str = leaf("cardinal/GeneralPoints-v0", "Gymnasium id; `module:id` imports a plugin first")
    settings: dict[str, Any] = leaf({}, "keywords of the environment, checked by its own schema")
    memory_gib: float = leaf(
        4.0, "that a process of environments may take before its episodes fail, GiB; 0: any", low=0
    )


@dataclass(frozen=True)
class RolloutConfig:
    """The actors that run episodes."""

    workers: int = leaf(1, "rollout actors, each one vLLM engine", low=1)
    in_flight: int = leaf(64, "episodes in flight in an actor (M)", low=1)
    block: int = leaf(16, "trajectories of a full object-store block", low=1)
    temperature: float = leaf(1.0, "sampling temperature in training", low=0)
    answer_tokens: int = leaf(64, "cap of one answer, tokens", low=1)
    context_tokens: int = leaf(1024, "cap of prompt and answers of a segment, tokens", low=8)
    max_turns: int = leaf(256, "answers of an episode; one that goes on is truncated", low=1)
    env_processes: int | None = leaf(
        None,
        "processes of an actor's environments; null: one for each episode in flight, so that none "
        "stops another, or 2 for Cardinal's own",
        low=1,
    )
    kv_cache_gib: float = leaf(1.0, "engine's KV cache, GiB (CPU engines)", low=0.01)
    gpu_memory: float = leaf(0.85, "share of a GPU's memory for the engine", low=0.05, high=1)
    tensor_parallel: int = leaf(1, "GPUs of an engine", low=1)
    read_weights: bool = leaf(
        True,
        "engines of a training read the model's files; false: they wait for the first publish, "
        "which replaces all weights",
    )
    cpus: float = leaf(1.0, "CPUs that an actor reserves in Ray", low=0)
    threads: int = leaf(1, "compute threads of an engine without a GPU", low=1)
    max_restarts: int = leaf(
        5, "restarts of an actor, or of its engine, one soon after another", low=0
    )


@dataclass(frozen=True)
class LearnerConfig:
    """The data-parallel group that trains."""

    ranks: int = leaf(1, "data-parallel ranks", low=1)
    zero_stage: int = leaf(0, "DeepSpeed ZeRO stage; 0 runs as 1 in bfloat16", choices=(0, 1, 2, 3))
    offload: bool = leaf(
        False, "keep the optimizer's state in the host's memory, not the GPU's; zero_stage from 1"
    )
    sequence_parallel: int = leaf(
        1,
        "ranks that share out the tokens of each other's rows, for long contexts "
        "(DeepSpeed-Ulysses); it divides ranks and the model's attention heads",
        low=1,
    )
    packing: str = leaf(
        "auto",
        "how sequences share rows: padded, one each; packed, rows as long as the longest; flat, "
        "one row; auto: flat with flash attention, else the cheaper of padded and packed",
        choices=PACKINGS,
    )
    microbatch_tokens: int = leaf(4096, "token budget of a packed microbatch", low=8)
    microbatch_images: int = leaf(64, "image budget of a packed microbatch", low=1)
    cpus: float = leaf(1.0, "CPUs that a rank reserves in Ray", low=0)
    threads: int = leaf(1, "compute threads of a rank without a GPU", low=1)
    checkpoint_minutes: float = leaf(
        5.0, "minutes between checkpoints, by rank 0's clock; 0: by checkpoint_every alone", low=0
    )
    checkpoint_every: int = leaf(
        0, "steps or updates between checkpoints; 0: by checkpoint_minutes alone", low=0
    )
    checkpoint_root: str | None = leaf(
        None,
        "folder of the runs' resumable states, or a URI that pyarrow opens, such as "
        "s3://BUCKET/PREFIX; null: each in its run folder",
    )
    keep_checkpoints: int = leaf(2, "how many resumable states to keep", low=1)
    keep_best: str | None = leaf(
        None,
        "VARIANT/success, VARIANT/first_try or VARIANT/reward of the evaluations: the model with "
        "the highest is kept as checkpoints/best; null: none is",
    )
    max_restarts: int = leaf(
        2, "restarts of the group, after a loss of it, from one checkpoint", low=0
    )


@dataclass(frozen=True)
class EvalConfig:
    """What is measured at the start, after SFT and after PPO."""

    variants: dict[str, Any] = leaf(
        {"train": {}},
        "by name, the settings that differ from env.settings; a variant that is null is left out",
    )
    episodes: int = leaf(512, "greedy episodes of a variant: what success means", low=1)
    sampled_questions: int = leaf(
        64,
        "first episodes that are sampled too, `episodes` at most; 0: no parity is measured",
        low=0,
    )
    samples: int = leaf(16, "samples of each of them, for pass@k", low=1)
    temperature: float = leaf(1.0, "of the samples", low=0)
    seed: int = leaf(1_000_000, "first seed of the evaluation's episodes", low=0)
    every: int = leaf(0, "PPO updates between evaluations; 0: at the ends of phases only", low=0)
    start: str | None = leaf(
        None, "run folder whose first model kl_start is measured from; null: this run's own"
    )


@dataclass(frozen=True)
class ClusterConfig:
    """Where the run is placed, and the deadline of each wait."""

    address: str | None = leaf(None, "Ray address; null starts a local Ray or joins the job's")
    root: str = leaf("runs", "folder of run folders; on several nodes, one that all see")
    layout: str = leaf(
        "disaggregated",
        "of GPUs: rollouts and learner each on their own, or alternating on the same ones",
        choices=("disaggregated", "colocated"),
    )
    accelerator: str | None = leaf(
        None, "GPU type as Ray names it (H100, A100, L4, …) that every GPU process needs; null: any"
    )
    channel: str = leaf(
        "auto",
        "how weights reach the engines; auto: ipc where colocated, nccl on GPUs apart, "
        "object_store without GPUs and with lora_sync=adapters",
        choices=("auto", "object_store", "nccl", "ipc"),
    )
    sync_bucket_mib: int = leaf(
        256, "weights at a time on their way to an engine, MiB; over object_store in halves", low=1
    )
    lora_sync: str = leaf(
        "merged",
        "what of LoRA travels over object_store: merged, all weights in each publish; adapters, "
        "those alone, merged beside each engine with plain weights that were sent once",
        choices=("merged", "adapters"),
    )
    weight_proof: bool = leaf(
        True, "prove each kind of weight at the start, compare log-probabilities after each publish"
    )
    start_deadline_s: float = _seconds(
        300.0, "until actors and engines are ready, s; 4 s more a GiB of weights"
    )
    episode_deadline_s: float = _seconds(120.0, "of one episode, s")
    env_deadline_s: float = _seconds(
        30.0, "of one call of an environment, s; start_deadline_s to make it", low=0.01
    )
    block_deadline_s: float = _seconds(
        600.0, "of one block of trajectories, s; 4 s more a GiB of weights"
    )
    sync_deadline_s: float = _seconds(
        120.0, "until an engine has received a publish, s; 4 s more a GiB of weights"
    )
    checkpoint_deadline_s: float = _seconds(
        1800.0, "until a checkpoint is written, s; the run goes on without it"
    )
    grace_s: float = _seconds(
        30.0, "for a last checkpoint after SIGTERM or Ctrl-C, s; a second one ends all", low=0.0
    )
    heartbeat_s: float = _seconds(
        30.0, "without a sign of life, after which a process is taken to hang, s"
    )
    max_failure_rate: float = leaf(
        0.05,
        "share of trajectories that may fail; beyond two standard deviations above, the run stops",
        low=0,
        high=1,
    )
    object_store_gib: float = leaf(1.0, "object store of a local Ray, GiB", low=0.1)


@dataclass(frozen=True)
class RunConfig:
    """One job: from demonstrations to a policy and its report."""

    name: str = leaf("run", "the run folder's name under cluster.root")
    seed: int = leaf(0, "of every draw: hands, demonstrations, minibatches, initial weights", low=0)
    preset: str = leaf(
        "fixed", "preset of the environments, SFT and PPO; see Presets", choices=PRESETS
    )
    tracker: str = leaf(
        "none",
        "where metrics are sent besides the run folder, as that package's own environment "
        "variables say",
        choices=TRACKERS,
    )
    model: ModelConfig = leaf(ModelConfig)
    env: EnvConfig = leaf(EnvConfig)
    sft: SFTConfig = leaf(SFTConfig)
    ppo: PPOConfig = leaf(PPOConfig)
    rollout: RolloutConfig = leaf(RolloutConfig)
    learner: LearnerConfig = leaf(LearnerConfig)
    eval: EvalConfig = leaf(EvalConfig)
    cluster: ClusterConfig = leaf(ClusterConfig)
