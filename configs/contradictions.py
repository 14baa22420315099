"""Pairs of configuration keys that cannot both hold; `configs.load.load` refuses them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from urllib.parse import unquote

from configs.no_effect import keys_without_effect
from configs.recorded import blocks_contradictions
from configs.schema import (
    BEST_MEASURES,
    FLASH_ATTENTION,
    ModelConfig,
    OptimizerConfig,
    PPOConfig,
    RolloutConfig,
    RunConfig,
    SFTConfig,
)
from configs.seeds import seed_contradictions


def contradictions(cfg: RunConfig) -> list[str]:
    """Every contradiction of a configuration, a sentence each."""
    return [
        *_tiny_model(cfg.model),
        *_attention(cfg),
        *_sequence_parallel(cfg),
        *_ppo(cfg.ppo),
        *_context(cfg.rollout),
        *_sft(cfg),
        *blocks_contradictions(cfg),
        *keys_without_effect(cfg),
        *_learning_rate("sft", cfg.sft.optimizer, cfg.sft.steps),
        *_learning_rate("ppo", cfg.ppo.optimizer, cfg.ppo.updates),
        *_sections(cfg),
        *seed_contradictions(cfg),
        *_evaluation(cfg),
        *_gpu_layout(cfg),
        *_deadlines(cfg),
        *_checkpoints(cfg),
        *_names(cfg),
    ]


def _tiny_model(model: ModelConfig) -> Iterator[str]:
    hidden, heads = model.init.hidden, model.init.heads
    if model.path is not None:
        return
    if hidden % heads != 0:
        yield f"model.init.heads={heads} does not divide model.init.hidden={hidden}"
    if hidden % (32 * heads) != 0:
        yield (
            f"model.init.hidden={hidden} over model.init.heads={heads} must make heads of a "
            "multiple of 32, the sizes that the engine's CPU attention has"
        )


def _attention(cfg: RunConfig) -> Iterator[str]:
    model = cfg.model
    if model.attention in FLASH_ATTENTION and model.dtype != "bfloat16":
        yield (
            f"model.attention={model.attention} computes in bfloat16 and not in "
            f"model.dtype={model.dtype}"
        )
    if model.attention in FLASH_ATTENTION and cfg.learner.packing == "packed":
        yield (
            f"learner.packing=packed has rows of several sequences, which "
            f"model.attention={model.attention} tells apart only in a microbatch of one row "
            "(learner.packing=flat)"
        )


def _sequence_parallel(cfg: RunConfig) -> Iterator[str]:
    size, heads = cfg.learner.sequence_parallel, cfg.model.init.heads
    key = f"learner.sequence_parallel={size}"
    if size == 1:
        return
    if cfg.learner.ranks % size != 0:
        yield f"{key} must divide learner.ranks={cfg.learner.ranks}, which it groups"
    if cfg.model.path is None and heads % size != 0:
        yield f"{key} must divide model.init.heads={heads}, which a group's ranks share out"
    if cfg.model.attention not in ("auto", "sdpa"):
        yield f"{key} computes attention by sdpa, not by model.attention={cfg.model.attention}"
    if cfg.sft.steps > 0 and cfg.sft.loss == "ce_kl":
        yield (
            f"{key} gives no rank the distributions of all tokens, which sft.loss=ce_kl compares; "
            "it must be ce or dft"
        )


def _ppo(ppo: PPOConfig) -> Iterator[str]:
    if ppo.minibatch > ppo.episodes:
        yield f"ppo.minibatch={ppo.minibatch} is more than ppo.episodes={ppo.episodes}"
    if 0 < ppo.dual_clip <= 1:
        yield f"ppo.dual_clip={ppo.dual_clip} must be above 1; 0 is off"
    one_step = ppo.epochs == 1 and ppo.minibatch == ppo.episodes
    ratios = not one_step or ppo.correction == "none"  # else each is 1
    several = "more than one step in an update, where every ratio is 1"
    for key, value, where in (
        ("surrogate", ratios, several),
        ("clip_high", ratios, several),
        ("dual_clip", ratios, several),
        ("desired_kl", ppo.optimizer.lr > 0, "a ppo.optimizer.lr above 0, which it adapts"),
        ("trunc_bootstrap", ppo.gamma > 0, "a ppo.gamma above 0, which multiplies the value"),
        ("dual_clip", ppo.surrogate == "clip", "ppo.surrogate=clip"),
        ("group_deviation", ppo.estimator == "grpo", "ppo.estimator=grpo"),
        ("aggregation", ppo.ratio_level == "token", "ppo.ratio_level=token"),
        ("kl_estimator", ppo.kl_in == "loss", "ppo.kl_in=loss"),
        ("kl_in", ppo.kl_coef > 0, "a ppo.kl_coef above 0"),
        ("correction_cap", ppo.correction != "none", "a ppo.correction, which none switches off"),
    ):
        if not value and getattr(ppo, key) != getattr(PPOConfig(), key):
            yield f"ppo.{key}={getattr(ppo, key)} has no use without {where}"
    if ppo.correction == "sequence" and ppo.ratio_level != "token":
        yield (
            f"ppo.correction=sequence is truncated with ppo.ratio_level={ppo.ratio_level}, whose "
            "ratios are of whole answers; it must be truncated"
        )
    if ppo.correction == "masked" and ppo.correction_cap == 1:
        yield (
            "ppo.correction_cap=1.0 leaves ppo.correction=masked no token whose ratio is not "
            "exactly 1; it must be above 1"
        )
    if ppo.surrogate == "sapo" and ppo.clip_high is not None:
        yield "ppo.clip_high has no use for ppo.surrogate=sapo, which does not clip"
    for key in ("desired_kl", "target_kl"):
        if getattr(ppo, key) and one_step:
            yield (
                f"ppo.{key}={getattr(ppo, key)} has no use where an update is one step "
                f"(ppo.epochs=1, ppo.minibatch={ppo.minibatch}): the KL before it is always 0"
            )
    yield from _groups(ppo)
    yield from _critic(ppo) if ppo.estimator == "gae" else _no_critic(ppo)


def _groups(ppo: PPOConfig) -> Iterator[str]:
    """What plays of one seed need, and what needs them."""
    compares = ppo.estimator in ("grpo", "rloo")
    if ppo.episodes % ppo.group_size != 0:
        yield f"ppo.episodes={ppo.episodes} is no multiple of ppo.group_size={ppo.group_size}"
    if compares and ppo.group_size < 2:
        yield (
            f"ppo.estimator={ppo.estimator} compares plays of one seed: ppo.group_size must be at "
            "least 2"
        )
    if ppo.dynamic_sampling and not compares:
        yield (
            f"ppo.dynamic_sampling={ppo.dynamic_sampling} drops groups that teach nothing, and "
            f"ppo.estimator={ppo.estimator} compares no plays of a group; it needs grpo or rloo"
        )
    if ppo.dynamic_sampling and ppo.kl_in == "reward":
        yield (
            f"ppo.dynamic_sampling={ppo.dynamic_sampling} drops groups whose plays the environment "
            f"rewards alike, and with ppo.kl_in=reward the KL (ppo.kl_coef={ppo.kl_coef:g}) would "
            "act on the others alone; ppo.kl_in must be loss"
        )
    if ppo.dynamic_sampling == 1:
        yield (
            "ppo.dynamic_sampling=1 lets an update play no more than its own episodes, so that "
            "none takes the place of another; it must be 0 or at least 2"
        )


def _critic(ppo: PPOConfig) -> Iterator[str]:
    if ppo.value_coef == 0:
        yield (
            "ppo.value_coef=0 never trains the value head, whose values ppo.estimator=gae reads; "
            "it must be above 0"
        )
    if ppo.baseline == "optimal" and not ppo.normalize_advantages:
        yield (
            "ppo.baseline=optimal is taken when advantages are normalised, which "
            "ppo.normalize_advantages=false leaves out"
        )
    if 0 < ppo.updates <= ppo.critic_warmup:
        yield (
            f"ppo.critic_warmup={ppo.critic_warmup} trains the value head alone in all of "
            f"ppo.updates={ppo.updates}, so that the policy stays as it is; it must be below"
        )
    if ppo.advantage_level == "token" and ppo.value_level == "turn":
        yield "ppo.advantage_level=token needs ppo.value_level=token"


def _no_critic(ppo: PPOConfig) -> Iterator[str]:
    """Keys, of the critic above all, that an estimator without one would ignore in silence.

    Not those that the repository's configurations or presets set, beside any estimator.
    """
    default, keys = PPOConfig(), ("lam", "value_coef", "value_level", "advantage_level")
    for key in (*keys, "value_clip", "trunc_bootstrap"):
        if getattr(ppo, key) != getattr(default, key):
            yield (
                f"ppo.{key}={getattr(ppo, key)} has no use for ppo.estimator={ppo.estimator}, "
                "which has no critic"
            )
    scaled = {"grpo": "by its group's deviation", "reinforce_pp": "over the batch always"}
    if ppo.estimator in scaled and not ppo.normalize_advantages:
        yield (
            f"ppo.normalize_advantages=false has no use for ppo.estimator={ppo.estimator}, which "
            f"scales advantages {scaled[ppo.estimator]}"
        )


def _context(rollout: RolloutConfig) -> Iterator[str]:
    if rollout.answer_tokens >= rollout.context_tokens:
        yield (
            f"rollout.answer_tokens={rollout.answer_tokens} leaves no room for a prompt in "
            f"rollout.context_tokens={rollout.context_tokens}"
        )


def _sft(cfg: RunConfig) -> Iterator[str]:
    sft, ranks = cfg.sft, cfg.learner.ranks
    if sft.steps > 0 and sft.batch_size % ranks != 0:
        yield f"sft.batch_size={sft.batch_size} is no multiple of learner.ranks={ranks}"
    if sft.steps > 0 and sft.data is None and sft.demonstrations < sft.batch_size:
        yield (
            f"sft.batch_size={sft.batch_size} is more than the sft.demonstrations="
            f"{sft.demonstrations} to be written"
        )
    if sft.steps > 0 and sft.loss == "ce_kl" and sft.kl_coef == 0:
        yield "sft.loss=ce_kl with sft.kl_coef=0 has no KL; set a weight or sft.loss=ce"
    if sft.steps > 0 and sft.loss != "ce_kl" and sft.kl_coef not in (0, SFTConfig().kl_coef):
        yield f"sft.kl_coef={sft.kl_coef} has no use without sft.loss=ce_kl"
    if any(not 1 <= step <= sft.steps for step in sft.keep):
        yield f"sft.keep={sft.keep}: must hold steps from 1 to sft.steps={sft.steps}"


def _learning_rate(phase: str, optimizer: OptimizerConfig, steps: int) -> Iterator[str]:
    lr, lr_end = optimizer.lr, optimizer.lr_end
    if steps > 0 and optimizer.schedule != "constant" and lr_end > lr:
        yield (
            f"{phase}.optimizer.lr_end={lr_end:g} is above {phase}.optimizer.lr={lr:g}, its peak"
        )


def _sections(cfg: RunConfig) -> Iterator[str]:
    """Contradictions between keys of two sections, and single ones of eval, learner and model."""
    if cfg.ppo.updates > 0 and cfg.rollout.temperature == 0:
        yield "rollout.temperature=0 samples nothing to learn from with ppo.updates above 0"
    if cfg.learner.offload and cfg.learner.zero_stage == 0:
        yield (
            "learner.offload=true needs learner.zero_stage of 1 to 3: DeepSpeed moves no optimizer "
            "state to the host without ZeRO"
        )
    if not (cfg.rollout.read_weights or cfg.cluster.weight_proof):
        yield (
            "rollout.read_weights=false needs cluster.weight_proof=true: what no publish brings "
            "would stay random in the engines"
        )
    if cfg.model.lora_targets and cfg.model.lora_rank == 0:
        yield "model.lora_targets names layers for adapters; model.lora_rank=0 makes none"
    if cfg.cluster.lora_sync == "adapters" and cfg.model.lora_rank == 0:
        yield "cluster.lora_sync=adapters sends adapters alone; model.lora_rank=0 makes none"
    if cfg.cluster.lora_sync == "adapters" and cfg.cluster.channel in ("nccl", "ipc"):
        yield (
            "cluster.lora_sync=adapters needs cluster.channel=object_store: "
            f"{cfg.cluster.channel} sends all weights from GPU to GPU"
        )


def _evaluation(cfg: RunConfig) -> Iterator[str]:
    if not cfg.eval.variants:
        yield "eval.variants is empty; at least one variant says what is measured"
    if cfg.eval.sampled_questions > 0 and cfg.eval.temperature == 0:
        yield (
            "eval.temperature=0 has nothing to sample; eval.sampled_questions=0 evaluates greedily "
            "alone, as success does always"
        )


def _gpu_layout(cfg: RunConfig) -> Iterator[str]:
    """Contradictions between cluster.layout, cluster.channel and what shares GPUs."""
    cluster, ranks = cfg.cluster, cfg.learner.ranks
    engine_gpus = cfg.rollout.workers * cfg.rollout.tensor_parallel
    colocated = cluster.layout == "colocated"
    if cluster.channel == "ipc" and not colocated:
        yield ("cluster.channel=ipc shares memory within a GPU; it needs cluster.layout=colocated")
    if cluster.channel == "nccl" and colocated:
        yield (
            "cluster.channel=nccl joins GPUs that differ; cluster.layout=colocated has engine and "
            "learner on the same ones and needs ipc"
        )
    if colocated and cfg.ppo.max_staleness > 0:
        yield (
            "cluster.layout=colocated alternates between rollouts and learning; "
            f"ppo.max_staleness={cfg.ppo.max_staleness} needs both at once"
        )
    if colocated and ranks != engine_gpus:
        yield (
            f"cluster.layout=colocated puts a rank on each engine's GPU: learner.ranks={ranks} "
            f"must be rollout.workers x rollout.tensor_parallel={engine_gpus}"
        )


def _deadlines(cfg: RunConfig) -> Iterator[str]:
    """A block must have the time of its episodes, which run `rollout.in_flight` at once.

    Their environments are made first, outside the episodes' deadline, and then used again.
    """
    cluster, rounds = cfg.cluster, ceil(cfg.rollout.block / cfg.rollout.in_flight)
    need = cluster.start_deadline_s + rounds * cluster.episode_deadline_s
    if cluster.block_deadline_s < need:
        yield (
            f"cluster.block_deadline_s={cluster.block_deadline_s:g}: a block of rollout.block="
            f"{cfg.rollout.block} episodes may take {need:g} s, as cluster.start_deadline_s="
            f"{cluster.start_deadline_s:g} to make their environments and "
            f"cluster.episode_deadline_s={cluster.episode_deadline_s:g} allow with "
            f"rollout.in_flight={cfg.rollout.in_flight}; it must be at least that"
        )
    if cluster.env_deadline_s > cluster.episode_deadline_s:
        yield (
            f"cluster.env_deadline_s={cluster.env_deadline_s:g} of one call is longer than "
            f"cluster.episode_deadline_s={cluster.episode_deadline_s:g} of its whole episode"
        )


def _checkpoints(cfg: RunConfig) -> Iterator[str]:
    learner, root = cfg.learner, cfg.learner.checkpoint_root
    if learner.keep_best is not None:
        variant, _, measure = learner.keep_best.rpartition("/")
        if variant not in cfg.eval.variants or measure not in BEST_MEASURES:
            yield (
                f"learner.keep_best={learner.keep_best}: must be VARIANT/MEASURE with one of the "
                f"eval.variants {', '.join(cfg.eval.variants)} and of the measures "
                f"{', '.join(BEST_MEASURES)}"
            )
    if root is not None and "://" not in root and not Path(root).is_absolute():
        yield (
            f"learner.checkpoint_root={root}: must be absolute, or a URI: each rank would look for "
            "a relative folder in its own"
        )
    if root is not None and _holds_secret(root):
        yield (
            "learner.checkpoint_root: holds credentials, which would be in config.yaml and in "
            "logs; give them to the processes as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


SECRET = "secret|sig|token|key|password|cred|sas"  # in the name of an option that is one


def _holds_secret(uri: str) -> bool:
    """Whether a URI has a password, or a query that does; a user alone is none."""
    place, _, query = uri.partition("://")[2].partition("?")
    secret = re.search(rf"(^|&)[^=&]*({SECRET})[^=&]*=|@", unquote(query), re.IGNORECASE)
    return ":" in place.rpartition("@")[0] or secret is not None


def _names(cfg: RunConfig) -> Iterator[str]:
    if cfg.name in ("", ".", "..") or Path(cfg.name).name != cfg.name:
        yield f"name={cfg.name!r} must be a plain folder name"
    elif cfg.name.strip() != cfg.name or not cfg.name.isprintable():
        yield f"name={cfg.name!r} must neither begin nor end with a blank, and be printable"
    if not cfg.cluster.root.strip():
        yield f"cluster.root={cfg.cluster.root!r}: must name a folder; . is the current one"
    for name, settings in cfg.eval.variants.items():
        if not isinstance(settings, dict):
            yield (
                f"eval.variants.{name}={settings!r}: must hold environment settings, {{}} for none"
            )
