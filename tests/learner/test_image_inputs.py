"""A vision-language learner: loss-invariance with pictures, alignment, freezing, positions."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from learner import batch, distributed
from learner.batch import Sequence
from learner.engine import TrainingEngine
from learner.image_inputs import ImageInputs, check_pictures
from learner.ppo import ppo_update
from learner.training_trajectory import prepare, split_scores
from rollout.pictures import Picture
from rollout.processor import PictureProcessor
from tests.support.learner import (
    config,
    full_state,
    relative,
    save_idefics,
    sgd,
    sgd_config,
    spawn,
    trajectories,
    with_pictures,
)
from tests.support.slow import fast

LR = 1e3
EXTRA = {"entropy_coef": 0.01, "epochs": 1, "minibatch": 12, "optimizer": sgd_config(LR)}
VARIANTS = [  # (ZeRO stage, token budget, picture budget, packing, trajectories of rank 0)
    (0, 4096, 64, "auto", 8),
    (0, 256, 3, "padded", 8),
    (0, 256, 64, "packed", 8),
    (1, 256, 2, "flat", 8),
    (2, 256, 64, "packed", 3),
    (3, 256, 3, "padded", 8),
    (3, 4096, 64, "packed", 10),  # rank 1 has no picture, rank 0 has
    (3, 256, 2, "packed", 12),  # rank 1 has nothing
]
FEW = [1, 3, 4, 6, 7]  # of the variants: each stage, packing and kind of share


def one_step(folder: Path, variant: tuple, checkpointing: bool = False) -> dict[str, np.ndarray]:
    """Metrics and gradient of an update of one SGD step; two trajectories have no picture."""
    stage, budget, images, packing, share = variant
    cfg = config(stage=stage, budget=budget, images=images, **EXTRA)
    cfg = replace(cfg, model=replace(cfg.model, gradient_checkpointing=checkpointing))
    engine = TrainingEngine(folder, cfg, cfg.ppo.optimizer, 4, True, make_optimizer=sgd)
    engine.packing = packing
    before = full_state(engine)
    played = with_pictures(trajectories(12), folder, without=2)
    if distributed.world_size() > 1:
        played = [played[:share], played[share:]][distributed.rank()]
    metrics = ppo_update(engine, played, cfg, 0)
    after = full_state(engine)
    engine.close()
    result = {name: np.array([value]) for name, value in metrics.items()}
    for name, value in after.items():
        result[f"gradient.{name}"] = (before[name] - value).ravel() / LR
    return result


def ranks_work(rank: int, folder: Path, out: Path, few: bool) -> None:
    for i, variant in enumerate(VARIANTS):
        if (i in FEW) == few:
            np.savez(out / f"{i}.{rank}.npz", **one_step(folder, variant))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = save_idefics(tmp_path_factory.mktemp("vision") / "model")
    cfg = config()
    engine = TrainingEngine(root, cfg, cfg.ppo.optimizer, 1, True)
    torch.nn.init.normal_(engine.model.value_head.outer.weight, std=0.5)
    engine.export(root)
    engine.close()
    return root


@pytest.fixture(scope="module")
def baseline(folder: Path) -> dict[str, np.ndarray]:
    return one_step(folder, VARIANTS[0])


@pytest.fixture(scope="module")
def two_ranks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks")
    spawn(ranks_work, 2, folder, out, True)
    return out


@pytest.fixture(scope="module")
def all_variants(folder: Path, two_ranks: Path) -> Path:
    """The same folder, with the variants that slow tests look at."""
    spawn(ranks_work, 2, folder, two_ranks, False)
    return two_ranks


def assert_same(result: dict[str, np.ndarray], baseline: dict[str, np.ndarray]) -> None:
    for name in ("loss", "policy_loss", "value_loss", "entropy", "tokens", "turns"):
        assert result[name] == pytest.approx(baseline[name], rel=1e-4), name
    for part in ("vision_model", "connector", "text_model", "lm_head", "value_head", ""):
        names = [n for n in baseline if n.startswith("gradient.") and part in n]
        assert names, part
        a, b = (np.concatenate([r[name] for name in names]) for r in (result, baseline))
        assert np.linalg.norm(b) > 0, part
        assert relative(a, b) < 1e-4, part


@pytest.mark.parametrize("variant", VARIANTS[1:6], ids=str)
def test_one_rank(folder: Path, baseline: dict[str, np.ndarray], variant: tuple) -> None:
    assert_same(one_step(folder, variant), baseline)


def test_gradient_checkpointing(folder: Path, baseline: dict[str, np.ndarray]) -> None:
    assert_same(one_step(folder, VARIANTS[2], checkpointing=True), baseline)


@pytest.mark.parametrize("index", fast(FEW, range(len(VARIANTS))), ids=lambda i: str(VARIANTS[i]))
def test_two_ranks(request, baseline: dict[str, np.ndarray], index: int) -> None:
    ran = request.getfixturevalue("two_ranks" if index in FEW else "all_variants")
    assert_same(dict(np.load(ran / f"{index}.0.npz")), baseline)


def scores(engine: TrainingEngine, sequences: list[Sequence]) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and values of all sequences, in their order."""
    packed = engine.microbatches(sequences)
    logprobs, values = split_scores(packed, engine.score(packed))
    return np.concatenate(logprobs), np.concatenate(values)


def test_packed_pictures_are_those_of_each_sequence_alone(folder: Path) -> None:
    """Against plain transformers, one sequence at a time."""
    cfg = config(budget=128, images=3)
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, False)
    engine.packing = "packed"
    sequences = [
        s for t in prepare(with_pictures(trajectories(6), folder), "turn") for s in t.sequences
    ]
    together, _ = scores(engine, sequences)
    engine.close()
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = PictureProcessor.load(folder)
    alone = []
    for s in sequences:
        ids = torch.from_numpy(np.asarray(s.token_ids, np.int64))[None]
        with torch.no_grad():
            logits = model(input_ids=ids, **processor.inputs(s.pictures)).logits[0]
        at = np.flatnonzero(s.action_mask)
        alone.append(logits.log_softmax(-1)[at - 1, ids[0, at]].numpy())
    assert np.abs(together - np.concatenate(alone)).max() < 1e-5


def test_policy_and_critic_depend_on_the_pictures(folder: Path) -> None:
    """Another picture before the same tokens: other log-probabilities, other values."""
    cfg = config()
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, True)
    played = with_pictures(trajectories(6), folder)
    sequences = [s for t in prepare(played, "turn") for s in t.sequences]
    shuffled = [
        replace(s, pictures=other.pictures)
        for s, other in zip(sequences, sequences[1:] + sequences[:1], strict=True)
    ]
    (logprobs, values), (other_logprobs, other_values) = (
        scores(engine, sequences),
        scores(engine, shuffled),
    )
    assert np.abs(logprobs - other_logprobs).mean() > 1e-2
    assert np.abs(values - other_values).mean() > 1e-2
    engine.close()


class SlowProcessor:
    """Makes a picture's tokens slowly, and knows how many threads were at it."""

    feature_id = 7

    def __init__(self) -> None:
        self.at_once, self.most, self.begun = 0, 0, threading.Event()

    def tokens(self, picture: Picture) -> list[int]:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.begun.set()
        time.sleep(0.05)
        self.at_once -= 1
        return [7]

    def features(self, picture: Picture) -> int:
        return len(self.tokens(picture))


def test_one_thread_at_a_time_makes_the_tokens_of_a_picture() -> None:
    processor = SlowProcessor()
    inputs = ImageInputs(processor, torch.nn.Linear(1, 1))
    picture = Picture.of(np.zeros((2, 2, 3), np.uint8))
    sequence = Sequence(np.array([7, 1]), np.array([False, True]), pictures=(picture,))
    packing = threading.Thread(target=inputs.check_alignment, args=(sequence,))
    packing.start()
    assert processor.begun.wait(60)
    assert inputs.dummy.pictures
    packing.join(60)
    assert processor.most == 1


def test_pictures_and_tokens_that_do_not_agree_are_refused(folder: Path) -> None:
    cfg = config()
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 1, False)
    (trajectory,) = prepare(with_pictures(trajectories(1), folder), "turn")
    good = trajectory.sequences[0]
    for bad in (
        replace(good, pictures=()),
        replace(good, pictures=good.pictures * 2),
        replace(
            good,
            token_ids=good.token_ids[4:],
            action_mask=good.action_mask[4:],
            value_positions=good.value_positions - 4,
        ),
    ):
        with pytest.raises(ValueError, match="picture tokens"):
            engine.microbatches([bad])
    engine.close()


@pytest.mark.parametrize(
    ("freeze", "still"),
    [("none", ()), ("vision", ("vision",)), ("vision+projector", ("vision", "connector"))],
)
def test_frozen_parts_stay(folder: Path, freeze: str, still: tuple[str, ...]) -> None:
    cfg = config(freeze=freeze, **EXTRA)
    engine = TrainingEngine(folder, cfg, cfg.ppo.optimizer, 4, True, make_optimizer=sgd)
    before = full_state(engine)
    ppo_update(engine, with_pictures(trajectories(12), folder), cfg, 0)
    after = full_state(engine)
    engine.close()
    for part in ("vision", "connector", "text_model"):
        moved = any((after[n] != before[n]).any() for n in before if part in n)
        assert moved != (part in still), part


def random_qwen() -> Qwen2_5_VLForConditionalGeneration:
    """A tiny Qwen2.5-VL, whose positions have three dimensions."""
    torch.manual_seed(0)
    text = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 64,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2, 3, 3],
            "rope_theta": 1e4,
        },
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 32,
        "out_hidden_size": 32,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "window_size": 16,
        "fullatt_block_indexes": [0],
    }
    cfg = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=60, vision_start_token_id=61
    )
    return Qwen2_5_VLForConditionalGeneration(cfg).eval()


def test_three_dimensional_positions_restart_with_each_sequence() -> None:
    """Packed, each sequence has the logits that it has alone."""
    model = random_qwen()
    grids = [torch.tensor([[1, 4, 4]]), torch.tensor([[1, 4, 8]])]
    pixels = [torch.randn(int(g.prod()), 3 * 2 * 4 * 4) for g in grids]
    sequences = [[1, 61, *[60] * 4, 5, 6, 7], [2, 3, 61, *[60] * 8, 9, 8]]

    class Processor:
        feature_id = 60

        def inputs(self, pictures):
            return {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.cat(grids)}

    picture = Picture.of(np.zeros((1, 1, 3), np.uint8))
    packable = [
        Sequence(np.array(ids), np.arange(len(ids)) == len(ids) - 1, pictures=(picture,))
        for ids in sequences
    ]
    (packed,) = batch.microbatches(packable, 64, "flat")
    images = ImageInputs(Processor(), model).model_inputs(packed, torch.device("cpu"))
    with torch.no_grad():
        together = model(input_ids=packed.token_ids, use_cache=False, **images).logits[0]
        start = 0
        for ids, grid, pixel in zip(sequences, grids, pixels, strict=True):
            row = torch.tensor([ids])
            alone = model(
                input_ids=row,
                pixel_values=pixel,
                image_grid_thw=grid,
                mm_token_type_ids=(row == 60).int(),
                attention_mask=torch.ones_like(row),
            ).logits[0]
            assert (together[start : start + len(ids)] - alone).abs().max() < 1e-5
            start += len(ids)


class Positioned(torch.nn.Module):
    """A model whose positions have so many axes."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.axes = axes

    def get_rope_index(self, ids, mm_token_type_ids, image_grid_thw):
        return torch.zeros(self.axes, *ids.shape, dtype=torch.long), None


@pytest.mark.parametrize(
    ("axes", "grids", "words"),
    [
        (4, "image_grid_thw", "takes positions of pictures in 4 dimensions; they must be in 3"),
        (3, "target_sizes", "gives pixel_values, target_sizes without the image_grid_thw"),
    ],
)
def test_positions_of_another_kind_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, axes: int, grids: str, words: str
) -> None:
    """HunYuan-VL's have four axes; MiniCPM-V's are made of target_sizes."""
    inputs = {"pixel_values": torch.zeros(1), grids: torch.ones(1, 3, dtype=torch.long)}
    monkeypatch.setattr(PictureProcessor, "inputs", lambda self, pictures: dict(inputs))
    with pytest.raises(ValueError, match=words):
        check_pictures(folder, Positioned(axes))


def test_a_picture_is_tried_at_check(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    check_pictures(folder, model)
    check_pictures(tmp_path, model)  # of text alone
