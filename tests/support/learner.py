"""Shared by the learner's tests: tiny models, random trajectories, and a process per rank."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

from configs.schema import (
    LearnerConfig,
    ModelConfig,
    OptimizerConfig,
    PPOConfig,
    RolloutConfig,
    RunConfig,
    SFTConfig,
    TinyModelConfig,
    TinyVisionConfig,
)
from learner.batch import Sequence
from learner.engine import TrainingEngine
from learner.init_model import init_model
from learner.optimizer import ParameterGroup
from learner.snapshot import write_file
from rollout.pictures import Picture
from rollout.processor import PictureProcessor
from rollout.trajectory import Segment, Trajectory, Turn

torch.set_num_threads(1)  # on a busy machine two threads wait for each other at every op
VOCABULARY = 48
FORBIDDEN = (VOCABULARY - 1,)  # never sampled below


def save_llama(folder: Path, *, tied: bool = True, seed: int = 0) -> Path:
    """A random Llama of about 50k parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.2,  # large, so that predictions differ from token to token
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def save_idefics(folder: Path, *, seed: int = 0) -> Path:
    """A random Idefics3 of about 60k parameters: 32 x 32 pictures, each 4 tokens and 3 around."""
    vision = TinyVisionConfig(layers=1, hidden=32, heads=2, mlp=32, image_size=32, patch_size=8)
    init = TinyModelConfig(layers=2, hidden=32, heads=2, mlp=64, vision=vision)
    cfg = RunConfig(seed=seed, model=ModelConfig(init=init))
    init_model(folder, cfg, ["0123456789 abc"], vision=True)
    # Larger weights, so that predictions differ from token to token and picture to picture.
    model = AutoModelForImageTextToText.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)
    return folder


def with_pictures(played: list[Trajectory], folder: Path, without: int = 0) -> list[Trajectory]:
    """The same trajectories, each segment with a picture of its own before it.

    The last `without` trajectories get none. Token ids are shifted past the special tokens'.
    """
    processor = PictureProcessor.load(folder)
    assert processor is not None
    rng = np.random.default_rng(5)
    pictured = []
    for number, t in enumerate(played):
        segments = []
        for s in t.segments:
            picture = Picture.of(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8))
            before = [] if number >= len(played) - without else processor.tokens(picture)
            n = len(before)
            arrays = {
                "token_ids": np.concatenate([before, s.token_ids + 20]).astype(np.int32),
                "action_mask": np.concatenate([np.zeros(n, bool), s.action_mask]),
                "behavior_logprobs": np.concatenate([np.zeros(n, np.float32), s.behavior_logprobs]),
                "policy_versions": np.concatenate([np.full(n, -1, np.int32), s.policy_versions]),
            }
            turns = tuple(replace(u, begin=u.begin + n, end=u.end + n) for u in s.turns)
            segments.append(Segment(**arrays, turns=turns, pictures=(picture,) if n else ()))
        pictured.append(replace(t, segments=tuple(segments)))
    return pictured


def trajectory(
    index: int, rng: np.random.Generator, *, version: int = 0, group: int | None = None
) -> Trajectory:
    """1 to 4 turns in 1 or 2 segments; every third ends in the next prompt (bootstrap)."""
    bootstrap = index % 3 == 0
    segments = []
    for _ in range(int(rng.integers(1, 3))):
        ids = rng.integers(0, VOCABULARY - 1, rng.integers(2, 12)).tolist()
        mask, turns = [False] * len(ids), []
        for _ in range(int(rng.integers(1, 3))):
            length = int(rng.integers(1, 9))
            turns.append(Turn(len(ids), len(ids) + length, float(rng.normal())))
            ids += rng.integers(0, VOCABULARY - 1, length + 3).tolist()
            mask += [True] * length + [False] * 3
        if not bootstrap:
            ids, mask = ids[:-3], mask[:-3]
        marks = np.array(mask)
        segments.append(
            Segment(
                np.array(ids, np.int32),
                marks,
                np.where(marks, rng.normal(-4, 0.5, len(marks)), 0).astype(np.float32),
                np.where(marks, version, -1).astype(np.int32),
                tuple(turns),
            )
        )
    return Trajectory(
        f"train/{index:03d}",
        "test",
        "train",
        index,
        index // 4 if group is None else group,
        tuple(segments),
        "truncated" if bootstrap else "terminated",
        {"success": float(index % 2), "first_try": 0.0},
        bootstrap=bootstrap,
    )


def trajectories(n: int, seed: int = 0) -> list[Trajectory]:
    rng = np.random.default_rng(seed)
    return [trajectory(i, rng) for i in range(n)]


def demonstrations(n: int, seed: int = 0) -> list[Sequence]:
    return [Sequence(s.token_ids, s.action_mask) for t in trajectories(n, seed) for s in t.segments]


def config(
    *,
    stage: int = 0,
    budget: int = 4096,
    temperature: float = 1.0,
    images: int = 64,
    freeze: str = "none",
    **ppo: Any,
) -> RunConfig:
    ppo = {"updates": 4, "episodes": 12, "minibatch": 4, "epochs": 2, "critic_warmup": 0} | ppo
    ppo = {"optimizer": OptimizerConfig(lr=1e-3, warmup=0.0)} | ppo
    return RunConfig(
        seed=7,
        sft=SFTConfig(optimizer=OptimizerConfig(lr=1e-3)),
        ppo=PPOConfig(**ppo),
        rollout=RolloutConfig(temperature=temperature),
        model=ModelConfig(freeze=freeze),
        learner=LearnerConfig(zero_stage=stage, microbatch_tokens=budget, microbatch_images=images),
    )


def sgd(groups: list[ParameterGroup], cfg: OptimizerConfig) -> torch.optim.Optimizer:
    """Plain SGD, so that a step of known size shows the gradient."""
    return torch.optim.SGD(groups, lr=cfg.lr)


def sgd_config(lr: float) -> OptimizerConfig:
    return OptimizerConfig(lr=lr, schedule="constant", warmup=0.0, max_grad_norm=0.0)


def full_state(engine: TrainingEngine) -> dict[str, np.ndarray]:
    """Full parameters of trunk and value head, on rank 0."""
    return {k: v.float().numpy() for k, v in engine._full_parameters(engine.model).items()}


def save_state(engine: TrainingEngine, folder: Path) -> None:
    """Write this rank's part of the resumable state."""
    for name, content in engine.snapshot().items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream:
            write_file(stream, content)


def load_state(engine: TrainingEngine, folder: Path) -> None:
    """Continue from what all ranks have written with `save_state`."""
    names = [str(f.relative_to(folder)) for f in sorted(folder.rglob("*")) if f.is_file()]
    engine.load(names, lambda name: (folder / name).open("rb"))


def held_bytes(engine: TrainingEngine) -> int:
    """Bytes of parameters that this rank holds for itself between steps."""
    held = (getattr(p, "ds_tensor", p) for p in engine.model.parameters())
    return sum(t.numel() * t.element_size() for t in held)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Relative L2 distance of a from b."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def spawn(work: Callable[..., None], ranks: int, *args: object) -> None:
    """Run work(rank, *args) in as many processes, joined by gloo through a file.

    They are forked off one that has imported this module: torch and DeepSpeed take seconds.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, "pytest"])
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _rank, (work, ranks, f"{folder}/ranks", args), ranks, start_method="forkserver"
        )


def _rank(
    rank: int, work: Callable[..., None], ranks: int, place: str, args: tuple[object, ...]
) -> None:
    faulthandler.enable()  # an abort in a library says where
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{place}",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=500),
    )
    work(rank, *args)
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of gloo or autograd that Python's own end meets abort the process
