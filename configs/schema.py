"""The keys of a run: their types, defaults, meanings and allowed values, in one place.

Each section is a frozen dataclass, each key a `leaf`. `configs.load` reads YAML into them,
`configs.contradictions` holds what excludes what. Each environment declares its settings so too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from configs.leaf import leaf

PRESETS = ("fixed", "paper_text", "paper_code")
TRACKERS = ("none", "wandb", "mlflow")
PACKINGS = ("auto", "padded", "packed", "flat")
FLASH_ATTENTION = ("flash_attention_2", "flash_attention_3")
GPU_ATTENTION = (*FLASH_ATTENTION, "flex_attention")  # no backward pass on a CPU
BEST_MEASURES = ("success", "first_try", "reward")  # of an evaluation, for learner.keep_best


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
class OptimizerConfig:
    """AdamW and its learning-rate schedule."""

    lr: float = leaf(1e-6, "peak learning rate", low=0)
    lr_end: float = leaf(0.0, "learning rate at the last step", low=0)
    schedule: str = leaf("cosine", "from lr to lr_end", choices=("cosine", "linear", "constant"))
    warmup: float = leaf(0.03, "share of the steps that warm up linearly", low=0, high=1)
    beta1: float = leaf(0.9, "decay of the first moment", low=0, high=1)
    beta2: float = leaf(0.98, "decay of the second moment", low=0, high=1)
    eps: float = leaf(1e-7, "AdamW's epsilon", low=0)
    weight_decay: float = leaf(0.0, "decoupled weight decay", low=0)
    max_grad_norm: float = leaf(1.0, "global gradient norm is clipped to this; 0 is off", low=0)


@dataclass(frozen=True)
class SFTConfig:
    """Supervised warm-up on demonstrations."""

    steps: int = leaf(0, "optimizer steps; 0 skips the phase", low=0)
    batch_size: int = leaf(128, "demonstrations of a step, over all ranks", low=1)
    demonstrations: int = leaf(8192, "how many to write when data is null", low=1)
    data: str | None = leaf(
        None, "Parquet, JSON lines or JSON: a file, or a folder; null: written by the expert"
    )
    max_tokens: int | None = leaf(
        None,
        "longer demonstrations are dropped and counted; null: none is, and one that the model's "
        "positions do not hold is refused",
        low=2,
    )
    loss: str = leaf(
        "ce", "cross-entropy, DFT, or ce + KL to the start", choices=("ce", "dft", "ce_kl")
    )
    kl_coef: float = leaf(0.1, "weight of the KL term of loss=ce_kl", low=0)
    optimizer: OptimizerConfig = leaf(OptimizerConfig, "the phase's own optimizer")
    log_every: int = leaf(20, "steps between two lines of metrics", low=1)
    eval_every: int = leaf(0, "steps between evaluations; 0: at the end of the phase only", low=0)
    keep: list[int] = leaf([], "steps whose model is exported as checkpoints/sft-STEP")
    skip: int = leaf(
        0, "demonstrations of the order seen before the first step; a study counts them", low=0
    )


@dataclass(frozen=True)
class PPOConfig:
    """Reinforcement learning on episodes."""

    updates: int = leaf(0, "PPO updates; 0 skips the phase", low=0)
    episodes: int = leaf(256, "trajectories of an update, over all workers", low=1)
    epochs: int = leaf(4, "passes over the trajectories of an update", low=1)
    minibatch: int = leaf(64, "trajectories of an optimizer step, over all ranks", low=1)
    optimizer: OptimizerConfig = leaf(OptimizerConfig, "the phase's own optimizer")
    estimator: str = leaf(
        "gae", "advantage estimator", choices=("gae", "grpo", "rloo", "reinforce_pp")
    )
    group_size: int = leaf(1, "episodes of one seed; above 1 for grpo and rloo", low=1)
    gamma: float = leaf(0.9, "discount per turn", low=0, high=1)
    lam: float = leaf(0.95, "GAE's lambda", low=0, high=1)
    group_deviation: str = leaf(
        "sample",
        "what grpo divides by: the sample's deviation (over n - 1), the population's, or none",
        choices=("sample", "population", "none"),
    )
    surrogate: str = leaf(
        "clip",
        "the policy's objective: PPO's clip; cispo: the clipped ratio weighs log pi; sapo: a soft "
        "gate in place of the clip",
        choices=("clip", "cispo", "sapo"),
    )
    clip: float = leaf(0.1, "ratio clip epsilon", low=0)
    clip_high: float | None = leaf(None, "epsilon above 1; null: as clip", low=0)
    dual_clip: float = leaf(
        0.0, "bound of the ratio where the advantage is negative, above 1; 0 is off", low=0
    )
    value_coef: float = leaf(0.5, "weight of the value loss", low=0)
    value_lr: float | None = leaf(
        None,
        "peak learning rate of the value head, by the optimizer's schedule; null: optimizer.lr",
        low=0,
    )
    value_clip: float = leaf(0.0, "clip of the value's move; 0 is off", low=0)
    value_level: str = leaf(
        "turn", "one value per turn or per action token", choices=("turn", "token")
    )
    value_trunk_grad: float = leaf(
        0.1, "factor on the value loss's gradient into the trunk", low=0, high=1
    )
    critic_warmup: int = leaf(2, "first updates that train the value head alone", low=0)
    advantage_level: str = leaf("turn", "GAE over turns or over tokens", choices=("turn", "token"))
    normalize_advantages: bool = leaf(True, "over the whole batch of the update")
    baseline: str = leaf(
        "mean",
        "what advantages are compared with, in the batch or the group. mean: their mean; optimal: "
        "the mean weighted by the squared norm of the score function, which has the least variance",
        choices=("mean", "optimal"),
    )
    ratio_level: str = leaf(
        "token",
        "ratio per token, per answer, or an answer's geometric mean over its tokens",
        choices=("token", "turn", "turn_mean"),
    )
    aggregation: str = leaf(
        "token",
        "how tokens' terms are averaged. token: all alike; turn: within their answer, then over "
        "answers; constant: their sum by rollout.answer_tokens, then over answers",
        choices=("token", "turn", "constant"),
    )
    thought_coef: float = leaf(
        1.0, "weight of an answer's tokens before its final field, in the policy loss", low=0
    )
    entropy_coef: float = leaf(0.0, "weight of the entropy bonus", low=0)
    kl_coef: float = leaf(0.0, "weight of the KL to the SFT policy; 0 keeps no copy", low=0)
    kl_in: str = leaf(
        "loss", "where the KL counts: in the loss or in the reward", choices=("loss", "reward")
    )
    kl_estimator: str = leaf(
        "k3", "of the KL in the loss; k2 has the exact KL's gradient", choices=("k2", "k3")
    )
    correction: str = leaf(
        "truncated",
        "for tokens of an older policy, by w = proximal / behaviour. truncated: min(w, cap); "
        "masked: w within [1 / cap, cap], else 0; sequence: truncated w of the whole answer; none: "
        "the ratio is to the behaviour policy",
        choices=("truncated", "masked", "sequence", "none"),
    )
    correction_cap: float = leaf(2.0, "bound of proximal / behaviour", low=1)
    trunc_bootstrap: bool = leaf(False, "add gamma V(next prompt) where an episode is truncated")
    max_staleness: int = leaf(0, "versions that a trajectory may lag; 0: none", low=0, high=1000)
    record: bool = leaf(False, "write what each update trains on to RUN/blocks, for a replay")
    blocks: str | None = leaf(
        None,
        "folder of recorded blocks to train on: no engine is started, nothing is evaluated, and "
        "the recorded updates are the last; null: engines play",
    )
    target_kl: float = leaf(
        0.0, "stop an update's epochs when KL(proximal, current) passes this; 0 is off", low=0
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
    cpus: float = leaf(1.0, "CPUs that an actor reserves in Ray", low=0)
    threads: int = leaf(1, "compute threads of an engine without a GPU", low=1)
    max_restarts: int = leaf(
        5, "restarts of an actor, or of its engine, one soon after another", low=0
    )


@dataclass(frozen=True)
class LearnerConfig:
    """The data-parallel group that trains."""

    ranks: int = leaf(1, "data-parallel ranks", low=1)
    zero_stage: int = leaf(0, "DeepSpeed ZeRO stage", choices=(0, 1, 2, 3))
    offload: bool = leaf(
        False, "keep the optimizer's state in the host's memory, not the GPU's; zero_stage from 1"
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
        "object_store without GPUs",
        choices=("auto", "object_store", "nccl", "ipc"),
    )
    sync_bucket_mib: int = leaf(
        256, "weights at a time on their way to an engine, MiB; over object_store in halves", low=1
    )
    weight_proof: bool = leaf(
        True, "prove each kind of weight at the start, compare log-probabilities after each publish"
    )
    start_deadline_s: float = leaf(
        300.0, "until actors and engines are ready, s; 4 s more a GiB of weights", low=1
    )
    episode_deadline_s: float = leaf(120.0, "of one episode, s", low=1)
    env_deadline_s: float = leaf(
        30.0, "of one call of an environment, s; start_deadline_s to make it", low=0.01
    )
    block_deadline_s: float = leaf(
        600.0, "of one block of trajectories, s; 4 s more a GiB of weights", low=1
    )
    sync_deadline_s: float = leaf(
        120.0, "until an engine has received a publish, s; 4 s more a GiB of weights", low=1
    )
    checkpoint_deadline_s: float = leaf(
        1800.0, "until a checkpoint is written, s; the run goes on without it", low=1
    )
    grace_s: float = leaf(
        30.0,
        "for a last checkpoint after SIGTERM or Ctrl-C, s; a second one ends all",
        low=0,
    )
    heartbeat_s: float = leaf(
        30.0, "without a sign of life, after which a process is taken to hang, s", low=1
    )
    max_failure_rate: float = leaf(
        0.05, "share of failed trajectories that stops the run", low=0, high=1
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
