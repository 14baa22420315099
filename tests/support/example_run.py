"""A run folder as `cardinal train` leaves it, made in milliseconds: for tests of reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from report.statistics import wilson

VARIANTS = ("train", "held_out", "ranks_11_12_13")
SHARES = {"start": (0.0, 0.0, 0.0), "sft": (0.33, 0.30, 0.11), "ppo": (0.56, 0.46, 0.21)}
N, HANDS = 512, 230
OVERLAPS = dict(zip(VARIANTS, ("all", "none", "some"), strict=True))
FLOORS = (
    ("random", "a formula at random", 0.02, 0.01),
    ("look-up", "what was <learned> by heart", 0.25, 0.2),
)


class Writer:
    """Writes records at times of its own making."""

    def __init__(self, folder: Path) -> None:
        self.file, self.now = (folder / "metrics.jsonl").open("w"), 0.0

    def write(self, kind: str, wait: float = 0.0, **numbers: Any) -> None:
        self.now += wait
        record = {"time": 1.79e9 + self.now, "kind": kind, "elapsed_s": self.now} | numbers
        self.file.write(json.dumps(record) + "\n")

    def phase(self, name: str, event: str = "begin", wait: float = 0.0) -> None:
        self.write("phase", wait, phase=name, event=event)


def make_run(
    folder: Path, upto: str = "ppo", status: str | None = "finished", tries: int = 0
) -> Path:
    """Write a run that got through `upto`: start, sft, ppo-part (killed in PPO) or ppo.

    tries: of a question; above 0 records have greedy and sampled answers, headline, questions and
    overlap, there are outcomes and floors, and SFT counts its epochs. 0: as older runs had it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        "name: demo\nseed: 3\nmodel:\n  path: null\nenv:\n  id: cardinal/GeneralPoints-v0\n"
        "  settings:\n    face_rule: ten\n"
    )
    if status:
        end = {"status": status, "cause": "" if status == "finished" else "Ctrl-C"}
        (folder / "status.json").write_text(json.dumps(end))
    (folder / "model").mkdir(exist_ok=True)
    weights = {"embed": np.zeros((60, 128), np.float32), "mlp": np.zeros(1000, np.float32)}
    save_file(weights, str(folder / "model" / "model.safetensors"))
    log, rng = Writer(folder), np.random.default_rng(0)
    episodes: list[dict[str, Any]] = []
    _proof(log)
    _evaluate(log, "start", episodes)
    if upto != "start":
        _sft(log, rng)
        _evaluate(log, "sft", episodes)
    if upto.startswith("ppo"):
        _ppo(log, rng, 14 if upto == "ppo-part" else 40)
    if upto == "ppo":
        log.phase("ppo", "end", 0.1)
        _evaluate(log, "ppo", episodes)
    log.file.close()
    lines = "".join(json.dumps(e) + "\n" for e in episodes)
    (folder / "episodes.jsonl").write_text(lines)
    if tries:
        _extend(folder, tries)
    return folder


def _extend(folder: Path, tries: int) -> None:
    """Give the records what older ones lack."""
    file = folder / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    rows: list[dict[str, Any]] = []
    for r in records:
        if r["kind"] == "sft":
            r |= {"demonstrations": 48_000, "epoch": r["step"] * 64 / 48_000}
        elif r["kind"] == "eval":
            share, first = r["success"], r["first_try"]
            counts = {"n": N, "questions": HANDS}
            r["greedy"] = {"success": share, "interval": r["interval"], "first_try": first}
            r["sampled"] = {"success": 0.7 * share, "interval": [0.6 * share, 0.8 * share]}
            r["sampled"] |= {"first_try": 0.7 * first}
            for decoding in ("greedy", "sampled"):
                r[decoding] |= counts
            r["pass_at"] = {"1": 0.7 * share, "4": 0.9 * share}
            r["overlap"] = OVERLAPS[r["variant"]]
            r["headline"] = "first_try" if tries > 1 else "success"
            rows += _rows(r)
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "outcomes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    floors = {
        variant: [
            {
                "baseline": name,
                "description": description,
                "n": 200,
                "questions": 124,
                "metrics": {"success": share, "first_try": first},
            }
            for name, description, share, first in FLOORS
        ]
        for variant in VARIANTS
    }
    (folder / "floors.json").write_text(json.dumps(floors))


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Outcomes of an evaluation's greedy episodes, every hand about twice."""
    common = {key: record[key] for key in ("stage", "variant", "update")}
    common |= {"step": 0, "decoding": "greedy", "end": "terminated"}
    wins, first = round(record["success"] * N), round(record["first_try"] * N)
    return [
        common
        | {"seed": i, "question": f"hand {i % HANDS}"}
        | {"success": float(i < wins), "first_try": float(i < first)}
        for i in range(N)
    ]


def _proof(log: Writer) -> None:
    log.write("sync", 6, version=0, seconds=0.4, bytes=3_400_000, buckets=1, check=None)
    log.phase("proof")
    kinds = ("embedding", "attention", "mlp", "norm", "head")
    check = {
        k: {"parity_mean_abs": 1e-6 * (i + 1), "parity_kl": 1e-11, "parity_tokens": 2200.0}
        for i, k in enumerate(kinds)
    }
    log.write("sync", 9, version=0, seconds=0.0, bytes=0, buckets=0, check=check)
    log.phase("proof", "end", 0.2)


def _sft(log: Writer, rng: np.random.Generator) -> None:
    log.phase("sft")
    for step in range(20, 2001, 20):
        loss = 0.75 + 2.4 * np.exp(-step / 260) + rng.normal(0, 0.012)
        log.write(
            "sft",
            1.7,
            step=step,
            steps=2000,
            loss=loss,
            lr=1e-3,
            grad_norm=0.4,
            tokens=3000.0,
            tokens_trained=60_000,
            tokens_per_second=rng.normal(7000, 150),
        )
    log.phase("sft", "end", 0.1)


def _ppo(log: Writer, rng: np.random.Generator, updates: int) -> None:
    log.phase("ppo", wait=5)
    for update in range(1, updates + 1):
        share = 0.33 + 0.24 * (1 - np.exp(-update / 14)) + rng.normal(0, 0.02)
        log.write(
            "ppo",
            4.4,
            update=update,
            updates=40,
            version=update,
            reward=7 * share - 3.1,
            success=round(share * 256) / 256,
            first_try=0.6 * share,
            episodes=256,
            loss=0.1,
            policy_loss=-0.01,
            value_loss=0.3,
            entropy=0.4,
            kl=0.003,
            kl_ref=None,
            clip_fraction=0.08,
            explained_variance=0.4,
            grad_norm=0.8,
            lr=2e-4,
            staleness_max=0,
            parity_mean_abs=2e-6,
            parity_kl=3e-11,
            parity_tokens=9000,
            waited_seconds=2.1,
            busy_seconds=2.0,
            engine_idle=[0.55],
            seconds=4.3,
            learner_idle=0.55,
            correction_ess=1.0,
            correction_overlap=0.98,
            learn_seconds=1.9,
            sync_seconds=0.3,
            running=58.0,
            failed=0,
            rollout_tokens_per_second=5200.0,
            learner_tokens_per_second=6100.0,
        )
        if update in (10, 20):
            _evaluate(log, "ppo", [], update, share - 0.1)
    log.write("restart", 2, who="rollout worker 0", cause="<killed> by the kernel: out of memory")


def _evaluate(
    log: Writer, stage: str, episodes: list[dict[str, Any]], update: int = 0, base: float = -1
) -> None:
    log.phase(f"eval {stage}", wait=0.5)
    for i, variant in enumerate(VARIANTS):
        share = SHARES[stage][i] if base < 0 else base - 0.12 * i
        wins = round(share * N)
        log.write(
            "eval",
            4.1,
            update=update,
            stage=stage,
            variant=variant,
            success=wins / N,
            n=N,
            interval=list(wilson(wins, N)),
            first_try=0.6 * wins / N,
            seconds=4.1,
            metrics={"success": wins / N, "first_try": 0.6 * wins / N, "legal": 0.97},
            reward=-1.0,
            ends={"terminated": wins, "truncated": N - wins},
            tokens_per_second=5300.0,
        )
        episodes.append(_conversation(stage, variant, update))
    log.phase(f"eval {stage}", "end", 0.1)


def _conversation(stage: str, variant: str, update: int) -> dict[str, Any]:
    won = stage == "ppo"
    answers = ["(7-3)*(8-1)=24", "8*3*1=24" if not won else "(7-1)*(8/2)=24"]
    return {
        "stage": stage,
        "variant": variant,
        "update": update,
        "seed": 1_000_000,
        "end": "terminated" if won else "truncated",
        "success": float(won),
        "reward": 4.0 if won else -3.0,
        "messages": [
            {"role": "user", "content": "Cards: 7 3 8 A. Make 24."},
            {
                "role": "assistant",
                "content": answers[0],
                "reward": -1.0,
                "verdict": "You failed this trial because the formula's value is 28, not 24.",
            },
            {"role": "user", "content": "You failed this trial <script>alert('x')</script>."},
            {
                "role": "assistant",
                "content": answers[1],
                "reward": 5.0 if won else -2.0,
                "verdict": "Correct solution." if won else "not the cards' numbers",
            },
        ],
    }
