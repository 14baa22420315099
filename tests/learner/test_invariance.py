"""Loss-invariance: a step does not depend on ranks, microbatches, packing or ZeRO's stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import OptimizerConfig
from learner import distributed, output_layer
from learner.engine import ReferencePolicy, TrainingEngine
from learner.minibatches import deal, update_minibatches
from learner.model import ForwardOptions
from learner.ppo import critic_steps, ppo_update
from learner.sft import sft_step
from tests.support.learner import (
    FORBIDDEN,
    VOCABULARY,
    config,
    demonstrations,
    full_state,
    held_bytes,
    load_state,
    relative,
    save_llama,
    save_state,
    sgd,
    sgd_config,
    spawn,
    trajectories,
)
from tests.support.slow import fast

LR = 1e3  # so large that the step shows the gradient to full float32 precision
VARIANTS = [  # (ZeRO stage, microbatch budget, packing, how many trajectories rank 0 takes)
    *((stage, 4096, "auto", 8) for stage in (0, 1, 2, 3)),
    *((stage, 256, "padded", 8) for stage in (0, 2, 3)),
    (0, 256, "packed", 3),
    (1, 256, "padded", 12),  # rank 1 has no trajectory and pads
    (3, 256, "packed", 12),
]
FEW = [3, 5, 7, 8, 9]  # of the variants: each stage, packing and kind of share
ONE_RANK = [
    (1, 4096, "auto", 8),
    (2, 256, "padded", 8),
    (3, 256, "packed", 8),
    (0, 256, "padded", 8),
    (0, 256, "packed", 8),
]
EXTRA = {"entropy_coef": 0.01, "kl_coef": 0.05, "epochs": 1, "minibatch": 12, "baseline": "optimal"}


def one_step(folder: Path, reference: ReferencePolicy, variant: tuple) -> dict[str, np.ndarray]:
    """Metrics, gradient and parameters of one update of one SGD step."""
    stage, budget, packing, share = variant
    cfg = config(stage=stage, budget=budget, temperature=0.7, **EXTRA, optimizer=sgd_config(LR))
    with pytest.MonkeyPatch.context() as patch:
        if packing == "packed":  # with its logits in chunks
            patch.setattr(output_layer, "CHUNK_ELEMENTS", 20 * VOCABULARY)
        engine = TrainingEngine(
            folder, cfg, cfg.ppo.optimizer, 4, True, make_optimizer=sgd, forbidden=FORBIDDEN
        )
    engine.packing = packing
    before, held = full_state(engine), held_bytes(engine)
    played = trajectories(12)
    if distributed.world_size() > 1:
        played = [played[:share], played[share:]][distributed.rank()]
    metrics = ppo_update(engine, played, cfg, 0, reference)
    after = full_state(engine)
    engine.close()
    result = {name: np.array([value]) for name, value in metrics.items()}
    for name, value in after.items():
        result[f"after.{name}"] = value.ravel()
        result[f"gradient.{name}"] = (before[name] - value).ravel() / LR
    result["held_bytes"] = np.array([held])
    return result


def minibatch_losses(folder: Path) -> list[float]:
    """Of an update of two epochs of three minibatches, whose trajectories are dealt to ranks."""
    cfg = config(budget=256)
    engine = TrainingEngine(folder, cfg, cfg.ppo.optimizer, 6, True)
    take_step, losses = engine.step, []

    def step(microbatches, *rest):
        own.append(sum(m.tokens for m in microbatches))
        metrics = take_step(microbatches, *rest)
        losses.append(metrics["loss"])
        return metrics

    own: list[int] = []
    engine.step = step
    ranks, rank = distributed.world_size(), distributed.rank()
    played = trajectories(12)
    tokens = {t.id: t.tokens for t in played}
    rank_of = deal(tokens, update_minibatches(tokens, cfg.ppo, cfg.seed, 0), ranks)
    ppo_update(engine, [t for t in played if rank_of[t.id] == rank], cfg, 0)
    engine.close()
    shares = np.array(distributed.all_gather(own))
    assert len(losses) == 6
    assert shares.max(0).sum() / shares.mean(0).sum() < 1.15  # of the slowest rank in each step
    return losses


def after_critic_warmup(folder: Path, stage: int) -> np.ndarray:
    """What Adam's first steps of the policy, after a whole update of the critic's, move."""
    cfg = config(stage=stage, critic_warmup=1, updates=2, optimizer=OptimizerConfig(lr=1e-3))
    frozen = critic_steps(cfg.ppo)
    engine = TrainingEngine(folder, cfg, cfg.ppo.optimizer, 12, True, frozen_steps=frozen)
    before, played = full_state(engine), trajectories(12)
    own = played[distributed.rank() :: distributed.world_size()]
    for update in range(2):
        ppo_update(engine, own, cfg, update)
    after = full_state(engine)
    engine.close()
    names = [name for name in before if name.startswith("trunk.")]
    return np.concatenate([np.ravel(after[name] - before[name]) for name in names] or [[]])


def ranks_work(rank: int, folder: Path, out: Path) -> None:
    np.save(out / f"losses.{rank}.npy", minibatch_losses(folder / "model"))
    for stage in (0, 3):
        np.save(out / f"warm-{stage}.{rank}.npy", after_critic_warmup(folder / "model", stage))
    variants_work(rank, folder, out, FEW)
    np.savez(out / f"other.{rank}.npz", **other_work(folder, rank, out))


def variants_work(rank: int, folder: Path, out: Path, indices: Sequence[int]) -> None:
    reference = ReferencePolicy(folder / "reference", config(), FORBIDDEN)
    for i in indices:
        result = one_step(folder / "model", reference, VARIANTS[i])
        np.savez(out / f"{i}.{rank}.npz", **result)


def other_work(folder: Path, rank: int, out: Path) -> dict[str, np.ndarray]:
    """SFT with KL, export, weights, perturbation, save and load, under ZeRO-3 and two ranks."""
    cfg = config(stage=3)
    engine = TrainingEngine(folder / "model", cfg, cfg.sft.optimizer, 10, True)
    reference = ReferencePolicy(folder / "reference", cfg)
    data = demonstrations(8)
    share = data[: len(data) // 3] if rank == 0 else data[len(data) // 3 :]
    sft = type(cfg.sft)(loss="ce_kl", optimizer=cfg.sft.optimizer)
    first = sft_step(engine, share, sft, reference)
    losses = [first["loss"]]
    save_state(engine, out / "state")
    distributed.barrier()  # each rank reads the parts of all
    losses.append(sft_step(engine, share, sft, reference)["loss"])
    load_state(engine, out / "state")
    losses.append(sft_step(engine, share, sft, reference)["loss"])

    packed = engine.microbatches(share)
    before = engine.score(packed)[0].logprobs
    assert engine.perturb("attention", 3)
    during = engine.score(packed)[0].logprobs
    engine.restore()
    after = engine.score(packed)[0].logprobs
    names = [name for bucket in engine.weights(20_000) for name, _ in bucket]
    engine.export(out / "export")
    np.savez(
        out / f"scores.{rank}.npz", logprobs=torch.cat([s.logprobs for s in engine.score(packed)])
    )
    engine.close()
    return {
        "losses": np.array(losses),
        "first": np.array([first["loss"], first["grad_norm"]]),
        "moved": (during - before).abs().max().numpy(),
        "restored": (after - before).abs().max().numpy(),
        "names": np.array(names),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("learner")
    save_llama(root / "model", tied=False)
    save_llama(root / "reference", tied=False, seed=1)
    # A value head that has learned something, so that its gradient reaches the trunk.
    cfg = config()
    engine = TrainingEngine(root / "model", cfg, cfg.ppo.optimizer, 1, True)
    torch.nn.init.normal_(engine.model.value_head.outer.weight, std=0.5)
    engine.export(root / "model")
    engine.close()
    return root


@pytest.fixture(scope="module")
def baseline(folder: Path) -> dict[str, np.ndarray]:
    return one_step(
        folder / "model", ReferencePolicy(folder / "reference", config(), FORBIDDEN), VARIANTS[0]
    )


@pytest.fixture(scope="module")
def two_ranks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks")
    spawn(ranks_work, 2, folder, out)
    return out


@pytest.fixture(scope="module")
def all_variants(folder: Path, two_ranks: Path) -> Path:
    """The same folder, with the variants that slow tests look at."""
    rest = [i for i in range(len(VARIANTS)) if i not in FEW]
    spawn(variants_work, 2, folder, two_ranks, rest)
    return two_ranks


def assert_same(result: dict[str, np.ndarray], baseline: dict[str, np.ndarray]) -> None:
    for name in ("loss", "policy_loss", "value_loss", "entropy", "kl_ref", "tokens", "turns"):
        assert result[name] == pytest.approx(baseline[name], rel=1e-5), name
    for part in ("gradient.", "after."):
        names = [name for name in baseline if name.startswith(part)]
        assert len(names) > 10
        a, b = (np.concatenate([r[name] for name in names]) for r in (result, baseline))
        assert relative(a, b) < 1e-5, part
    # The value head's own gradient is smaller than the trunk's: compare it alone, too.
    for name in (n for n in baseline if n.startswith("gradient.value_head")):
        assert np.linalg.norm(baseline[name]) > 0
        assert relative(result[name], baseline[name]) < 1e-5, name


@pytest.mark.parametrize("variant", ONE_RANK, ids=str)
def test_one_rank(folder: Path, baseline: dict[str, np.ndarray], variant: tuple) -> None:
    reference = ReferencePolicy(folder / "reference", config(), FORBIDDEN)
    assert_same(one_step(folder / "model", reference, variant), baseline)


@pytest.mark.parametrize("index", fast(FEW, range(len(VARIANTS))), ids=lambda i: str(VARIANTS[i]))
def test_two_ranks(request, baseline: dict[str, np.ndarray], index: int) -> None:
    ran = request.getfixturevalue("two_ranks" if index in FEW else "all_variants")
    assert_same(dict(np.load(ran / f"{index}.0.npz")), baseline)


@pytest.fixture(scope="module")
def warmed_up(folder: Path) -> np.ndarray:
    return after_critic_warmup(folder / "model", 0)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_policys_first_steps_do_not_depend_on_the_stage(folder, warmed_up, stage):
    """Adam counts no step of the critic's warm-up, whose gradients are none or zeros."""
    assert relative(after_critic_warmup(folder / "model", stage), warmed_up) < 0.01
    assert np.abs(warmed_up).max() > 2e-3  # of six steps of up to 1e-3


@pytest.mark.parametrize("stage", [0, 3])
def test_the_policys_first_steps_do_not_depend_on_ranks(two_ranks, warmed_up, stage):
    assert relative(np.load(two_ranks / f"warm-{stage}.0.npy"), warmed_up) < 0.01


def test_minibatches_dealt_to_two_ranks_have_the_losses_of_one(folder: Path, two_ranks: Path):
    losses = minibatch_losses(folder / "model")
    for rank in (0, 1):
        assert np.load(two_ranks / f"losses.{rank}.npy") == pytest.approx(losses, rel=1e-3)
    assert len({round(loss, 6) for loss in losses}) == 6


@pytest.mark.parametrize(("budget", "packing"), [(4096, "auto"), (16, "padded"), (60, "packed")])
def test_sft_is_the_same_for_every_packing_budget_and_number_of_ranks(
    folder: Path, two_ranks: Path, budget: int, packing: str
) -> None:
    """Loss and gradient are of the mean over all action tokens, on two ranks as on one."""
    cfg = config(budget=budget)
    engine = TrainingEngine(folder / "model", cfg, cfg.sft.optimizer, 10, True)
    engine.packing = packing
    sft = type(cfg.sft)(loss="ce_kl", optimizer=cfg.sft.optimizer)
    step = sft_step(engine, demonstrations(8), sft, ReferencePolicy(folder / "reference", cfg))
    engine.close()
    for rank in (0, 1):
        shared = np.load(two_ranks / f"other.{rank}.npz")["first"]
        assert np.allclose([step["loss"], step["grad_norm"]], shared, rtol=1e-4)


def test_a_changed_loss_is_noticed(folder: Path, baseline: dict[str, np.ndarray]) -> None:
    reference = ReferencePolicy(folder / "reference", config(), FORBIDDEN)
    changed = one_step(folder / "model", reference, VARIANTS[0])
    changed["gradient.trunk.model.norm.weight"] = 1.01 * changed["gradient.trunk.model.norm.weight"]
    with pytest.raises(AssertionError):
        assert_same(changed, baseline)


def test_zero_3_shares_the_parameters(two_ranks: Path) -> None:
    full_bytes = sum(
        v.nbytes for k, v in np.load(two_ranks / "3.0.npz").items() if k.startswith("after.")
    )
    for index in FEW:
        for rank in (0, 1):
            result = np.load(two_ranks / f"{index}.{rank}.npz")
            share = float(result["held_bytes"][0]) / full_bytes
            assert share <= 0.6 if VARIANTS[index][0] == 3 else share == 1.0


def test_two_ranks_do_sft_export_perturbation_and_resume(folder: Path, two_ranks: Path) -> None:
    from transformers import AutoModelForCausalLM

    zero, one = (np.load(two_ranks / f"other.{rank}.npz") for rank in (0, 1))
    assert np.array_equal(zero["losses"], one["losses"])
    assert zero["losses"][1] == zero["losses"][2]  # the step after save, and again after load
    assert zero["losses"][1] < zero["losses"][0]
    assert zero["moved"] > 1e-3
    assert zero["restored"] == 0
    trunk = AutoModelForCausalLM.from_pretrained(two_ranks / "export")
    assert sorted(zero["names"]) == sorted(dict(trunk.named_parameters()))
    assert len(one["names"]) == 0

    cfg = config()
    engine = TrainingEngine(two_ranks / "export", cfg, cfg.sft.optimizer, 1, True)
    data = demonstrations(8)
    packed = engine.microbatches(data[: len(data) // 3])
    logprobs = torch.cat([s.logprobs for s in engine.score(packed, ForwardOptions())])
    stored = np.load(two_ranks / "scores.0.npz")["logprobs"]
    assert np.abs(logprobs.numpy() - stored).max() < 1e-5
    engine.close()
