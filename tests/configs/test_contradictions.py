"""Contradictions: each pair of keys that cannot both hold is refused, and its neighbour is not."""

import dataclasses

import pytest

from configs.contradictions import contradictions
from configs.load import ConfigError, build, load, parse
from configs.schema import RunConfig

GRPO = ["ppo.estimator=grpo", "ppo.group_size=2"]
FLASH = "model.attention=flash_attention"
SFT = ["sft.steps=9"]
ONE_STEP = ["ppo.epochs=1", "ppo.minibatch=256"]
COLOCATED = ["cluster.layout=colocated"]
ADAPTERS = "cluster.lora_sync=adapters"


def config(*overrides):
    """The defaults with PPO updates, and overrides; contradictions are not refused."""
    return build(RunConfig, parse(["ppo.updates=3", *overrides]), "")


@pytest.mark.parametrize(
    ("overrides", "mended", "words"),
    [
        (["model.init.heads=3"], "model.path=x", "does not divide model.init.hidden=128"),
        (["model.init.heads=8"], "model.init.heads=2", "heads of a multiple of 32"),
        ([f"{FLASH}_2"], "model.dtype=bfloat16", "_2 computes in bfloat16 and not in model.dtype="),
        ([f"{FLASH}_3"], "model.attention=sdpa", "_3 computes in bfloat16 and not in model.dtype="),
        (["learner.keep_best=hard/success"], "learner.keep_best=train/success", "VARIANT/MEASURE"),
        (["learner.keep_best=train/lenght"], "learner.keep_best=train/reward", "VARIANT/MEASURE"),
        (["learner.keep_best=success"], "learner.keep_best=null", "of the eval.variants train"),
        (["learner.checkpoint_root=x"], "learner.checkpoint_root=/x", "checkpoint_root=x: must be"),
        (
            ["learner.checkpoint_root=s3://me:a/b@b/c"],
            "learner.checkpoint_root=gs://anonymous@b/c",
            "checkpoint_root: holds credentials",
        ),
        (
            ["learner.checkpoint_root=abfss://a.net/c/p?sig=x"],
            "learner.checkpoint_root=abfss://c@a.net/p",
            "checkpoint_root: holds credentials",
        ),
        (
            ["learner.checkpoint_root=s3://b/c?region=x&secret_key=y"],
            "learner.checkpoint_root=s3://b/c?region=x&scheme=http",
            "checkpoint_root: holds credentials",
        ),
        (
            ["learner.checkpoint_root=s3://b/c?endpoint_override=http://u:p@h"],
            "learner.checkpoint_root=s3://b/c?endpoint_override=http://h",
            "checkpoint_root: holds credentials",
        ),
        *(
            (
                [f"learner.checkpoint_root=s3://b/c?{option}"],
                "learner.checkpoint_root=s3://b/c?region=eu-1",
                "checkpoint_root: holds credentials",
            )
            for option in (
                "endpoint_override=http%3A%2F%2Fu%3Ap%40h",
                "credential=x",
                "sas=x",
                "%73ecret_key=x",
            )
        ),
        (
            ["learner.checkpoint_root=s3://me:key@b/c"],
            "learner.checkpoint_root=s3://b/c@d",
            "holds",
        ),
        (["ppo.minibatch=257"], "ppo.minibatch=256", "is more than ppo.episodes=256"),
        (
            ["ppo.critic_warmup=3"],
            "ppo.critic_warmup=2",
            "ppo.critic_warmup=3 trains the value head alone in all of ppo.updates=3, so that",
        ),
        (["ppo.value_coef=0"], "ppo.value_coef=0.1", "never trains the value head, whose values"),
        ([*ONE_STEP, "ppo.surrogate=cispo"], "ppo.epochs=2", "surrogate=cispo has no use without"),
        ([*ONE_STEP, "ppo.surrogate=cispo"], "ppo.minibatch=64", "surrogate=cispo has no use"),
        ([*ONE_STEP, "ppo.surrogate=cispo"], "ppo.correction=none", "surrogate=cispo has no use"),
        ([*ONE_STEP, "ppo.clip_high=0.5"], "ppo.clip_high=null", "more than one step in an update"),
        ([*ONE_STEP, "ppo.dual_clip=3"], "ppo.dual_clip=0", "more than one step in an update"),
        (
            ["ppo.optimizer.lr=0", "ppo.desired_kl=0.01"],
            "ppo.optimizer.lr=1e-5",
            "ppo.desired_kl=0.01 has no use without a ppo.optimizer.lr above 0",
        ),
        (
            ["ppo.gamma=0", "ppo.trunc_bootstrap=true"],
            "ppo.gamma=0.1",
            "ppo.trunc_bootstrap=True has no use without a ppo.gamma above 0",
        ),
        (
            ["ppo.correction=sequence", "ppo.ratio_level=turn"],
            "ppo.ratio_level=token",
            "ppo.correction=sequence is truncated with ppo.ratio_level=turn",
        ),
        (
            ["ppo.correction=sequence", "ppo.ratio_level=turn_mean"],
            "ppo.correction=truncated",
            "ppo.correction=sequence is truncated with ppo.ratio_level=turn_mean",
        ),
        ([*SFT, "sft.kl_coef=0.5"], "sft.loss=ce_kl", "sft.kl_coef=0.5 has no use without sft"),
        ([*SFT, "sft.kl_coef=0.5"], "sft.kl_coef=0.1", "sft.kl_coef=0.5 has no use without sft"),
        (["ppo.updates=1"], "ppo.updates=3", "the value head alone in all of ppo.updates=1"),
        (["ppo.updates=2"], "ppo.critic_warmup=0", "the value head alone in all of ppo.updates=2"),
        (["ppo.updates=2"], "ppo.updates=0", "ppo.critic_warmup=2 trains the value head alone"),
        (["ppo.critic_warmup=9"], "ppo.estimator=reinforce_pp", "ppo.critic_warmup=9 trains the"),
        (["ppo.group_size=3"], "ppo.group_size=4", "is no multiple of ppo.group_size=3"),
        (["ppo.estimator=grpo"], "ppo.group_size=2", "ppo.group_size must be at least 2"),
        (["ppo.estimator=rloo"], "ppo.group_size=2", "ppo.group_size must be at least 2"),
        (
            ["ppo.dynamic_sampling=2"],
            "ppo.dynamic_sampling=0",
            "ppo.estimator=gae compares no plays of a group; it needs grpo or rloo",
        ),
        (
            ["ppo.estimator=reinforce_pp", "ppo.group_size=2", "ppo.dynamic_sampling=2"],
            "ppo.estimator=rloo",
            "ppo.estimator=reinforce_pp compares no plays",
        ),
        (
            [*GRPO, "ppo.dynamic_sampling=1"],
            "ppo.dynamic_sampling=2",
            "must be 0 or at least 2",
        ),
        *(
            (
                [*GRPO, "ppo.dynamic_sampling=3", "ppo.kl_in=reward", "ppo.kl_coef=0.25"],
                mended,
                "ppo.dynamic_sampling=3 drops groups whose plays the environment rewards alike, "
                "and with ppo.kl_in=reward the KL (ppo.kl_coef=0.25) would act on the others alone",
            )
            for mended in ("ppo.dynamic_sampling=0", "ppo.kl_in=loss")
        ),
        (
            ["ppo.desired_kl=0.01", "ppo.epochs=1", "ppo.minibatch=256"],
            "ppo.minibatch=128",
            "ppo.desired_kl=0.01 has no use where an update is one step",
        ),
        (
            ["ppo.desired_kl=0.01", "ppo.epochs=1", "ppo.minibatch=256"],
            "ppo.epochs=2",
            "the KL before it is always 0",
        ),
        (
            ["ppo.target_kl=0.01", "ppo.epochs=1", "ppo.minibatch=256"],
            "ppo.epochs=2",
            "ppo.target_kl=0.01 has no use where an update is one step",
        ),
        (
            [*GRPO, "ppo.normalize_advantages=false"],
            "ppo.estimator=rloo",
            "has no use for ppo.estimator=grpo, which scales advantages by its group's deviation",
        ),
        (
            ["ppo.estimator=reinforce_pp", "ppo.normalize_advantages=false"],
            "ppo.estimator=gae",
            "which scales advantages over the batch always",
        ),
        ([*GRPO, "ppo.lam=0.2"], "ppo.lam=0.95", "ppo.lam=0.2 has no use for ppo.estimator=grpo"),
        ([*GRPO, "ppo.value_coef=3"], "ppo.estimator=gae", "ppo.value_coef=3.0 has no use"),
        ([*GRPO, "ppo.value_level=token"], "ppo.estimator=gae", "which has no critic"),
        ([*GRPO, "ppo.value_clip=0.2"], "ppo.value_clip=0", "ppo.value_clip=0.2 has no use"),
        ([*GRPO, "ppo.trunc_bootstrap=true"], "ppo.estimator=gae", "which has no critic"),
        ([*GRPO, "ppo.advantage_level=token"], "ppo.advantage_level=turn", "has no critic"),
        (["ppo.advantage_level=token"], "ppo.value_level=token", "needs ppo.value_level=token"),
        (
            ["ppo.correction=none", "ppo.correction_cap=3"],
            "ppo.correction=masked",
            "ppo.correction_cap=3.0 has no use without a ppo.correction",
        ),
        (
            ["ppo.correction=masked", "ppo.correction_cap=1"],
            "ppo.correction_cap=1.5",
            "it must be above 1",
        ),
        (["rollout.answer_tokens=1024"], "rollout.answer_tokens=1023", "no room for a prompt"),
        ([*SFT, "learner.ranks=3"], "sft.steps=0", "sft.batch_size=128 is no multiple of learner"),
        (
            [*SFT, "sft.demonstrations=127"],
            "sft.demonstrations=128",
            "sft.demonstrations=127 to be",
        ),
        ([*SFT, "sft.demonstrations=127"], "sft.data=x", "sft.demonstrations=127 to be"),
        ([*SFT, "sft.loss=ce_kl", "sft.kl_coef=0"], "sft.loss=ce", "sft.kl_coef=0 has no KL"),
        ([*SFT, "sft.keep=[3,10]"], "sft.keep=[1,9]", "must hold steps from 1 to sft.steps=9"),
        ([*SFT, "sft.keep=[0]"], "sft.keep=[1]", "must hold steps from 1 to sft.steps=9"),
        ([*SFT, "sft.optimizer.lr_end=1"], "sft.optimizer.lr=1", "is above sft.optimizer.lr=1e-06"),
        (["ppo.optimizer.lr_end=1"], "ppo.optimizer.schedule=constant", "its peak"),
        (["ppo.optimizer.lr_end=1"], "ppo.updates=0", "ppo.optimizer.lr_end=1 is above"),
        (["rollout.temperature=0"], "ppo.updates=0", "samples nothing to learn from"),
        (
            [f"{FLASH}_2", "model.dtype=bfloat16", "learner.packing=packed"],
            "learner.packing=flat",
            "learner.packing=packed has rows of several sequences, which model.attention=flash",
        ),
        (["learner.offload=true"], "learner.zero_stage=1", "needs learner.zero_stage of 1 to 3"),
        (
            ["learner.sequence_parallel=2", "learner.ranks=3"],
            "learner.ranks=4",
            "learner.sequence_parallel=2 must divide learner.ranks=3",
        ),
        (
            ["learner.sequence_parallel=3", "learner.ranks=3"],
            "model.path=/a",
            "learner.sequence_parallel=3 must divide model.init.heads=",
        ),
        (
            ["learner.sequence_parallel=2", "learner.ranks=2", "model.attention=eager"],
            "model.attention=sdpa",
            "computes attention by sdpa, not by model.attention=eager",
        ),
        (
            ["learner.sequence_parallel=2", "learner.ranks=2", "sft.loss=ce_kl", *SFT],
            "sft.loss=dft",
            "learner.sequence_parallel=2 gives no rank the distributions of all tokens, which sft",
        ),
        (["model.lora_targets=[q]"], "model.lora_rank=1", "model.lora_rank=0 makes none"),
        ([ADAPTERS], "model.lora_rank=1", "cluster.lora_sync=adapters sends adapters alone"),
        (
            [ADAPTERS, "model.lora_rank=1", "cluster.channel=nccl"],
            "cluster.channel=object_store",
            "cluster.lora_sync=adapters needs cluster.channel=object_store: nccl sends all",
        ),
        (
            [ADAPTERS, "model.lora_rank=1", *COLOCATED, "cluster.channel=ipc"],
            "cluster.lora_sync=merged",
            "needs cluster.channel=object_store: ipc sends all weights",
        ),
        (
            ["rollout.read_weights=false", "cluster.weight_proof=false"],
            "cluster.weight_proof=true",
            "rollout.read_weights=false needs cluster.weight_proof=true",
        ),
        (
            ["cluster.env_deadline_s=121"],
            "cluster.env_deadline_s=120",
            "is longer than cluster.episode_deadline_s=120 of its whole episode",
        ),
        (["cluster.channel=ipc"], "cluster.layout=colocated", "needs cluster.layout=colocated"),
        ([*COLOCATED, "cluster.channel=nccl"], "cluster.channel=ipc", "joins GPUs that differ"),
        ([*COLOCATED, "ppo.max_staleness=1"], "ppo.max_staleness=0", "needs both at once"),
        ([*COLOCATED, "learner.ranks=2"], "rollout.workers=2", "tensor_parallel=1"),
        ([*COLOCATED, "learner.ranks=2"], "rollout.tensor_parallel=2", "learner.ranks=2 must be"),
        (
            ["cluster.episode_deadline_s=601"],
            "cluster.block_deadline_s=901",
            "cluster.block_deadline_s=600: a block of rollout.block=16 episodes may take 901 s",
        ),
        (
            ["rollout.block=384", "rollout.in_flight=64"],
            "cluster.block_deadline_s=1020",
            "may take 1020 s, as cluster.start_deadline_s=300 to make their environments and "
            "cluster.episode_deadline_s=120 allow with rollout.in_flight=64",
        ),
        (
            ["cluster.start_deadline_s=3600"],
            "cluster.block_deadline_s=3720",
            "cluster.block_deadline_s=600: a block of rollout.block=16 episodes may take 3720 s",
        ),
        (["name=a/b"], "name=a", "name='a/b' must be a plain folder name"),
        (["name=.."], "name=a", "name='..' must be a plain folder name"),
    ],
)
def test_a_contradiction_is_refused_and_without_it_nothing(overrides, mended, words):
    sentences = contradictions(config(*overrides))
    assert any(words in sentence for sentence in sentences), sentences
    assert all("\n" not in sentence for sentence in sentences)
    assert contradictions(config(*overrides, mended)) == []


def test_defaults_contradict_nothing():
    assert contradictions(RunConfig()) == []


def test_variants_hold_settings_and_are_not_empty():
    cfg = config()
    for variants, words in (({}, "is empty"), ({"x": 3}, "eval.variants.x=3: must hold")):
        changed = dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, variants=variants))
        (sentence,) = contradictions(changed)
        assert words in sentence


def test_loading_refuses_the_first(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("ppo: {updates: 3, episodes: 32}\n")
    with pytest.raises(ConfigError, match=r"^ppo.minibatch=64 is more than ppo.episodes=32$"):
        load(file, ["rollout.temperature=0"])


def test_no_staleness_is_beyond_what_a_ledger_can_count():
    assert config("ppo.max_staleness=1000").ppo.max_staleness == 1000
    for value in ("1001", "99999999999999999999"):
        with pytest.raises(ConfigError, match=f"ppo.max_staleness={value}"):
            config(f"ppo.max_staleness={value}")
