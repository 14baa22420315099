"""What a study measured, as typed rows.

Input: a study's folder, whose form is described at `read_study`; an incomplete one is read as far
as it goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from configs.load import ConfigError
from configs.study import PRETRAIN
from report.metrics import Record, episodes, read_lines
from report.statistics import summarise
from report.study.compute import Spent, along, before
from report.summary import load_config, parameters

KINDS = ("pretrain", "start", "sft", "rl", "rl_without_sft", "rl_overfit", "not begun")
# Settings that change no rule and no picture.
SAME_RULE = {"hands", "require_face", "verify_iter", "feedback"}
OUTCOMES = "outcomes.jsonl"
UNKNOWN = Spent(sft_flops=math.nan, formula_flops=math.nan)
FIELDS = ("stage", "variant", "seed", "success")


@dataclass(frozen=True)
class Arm:
    """One way of training.

    kind: its part in the paper's comparisons, one of KINDS.
    source, at: the arm whose model it begins with, and after which SFT step (None: its end).
    verify_iter: graded answers an episode in training, where the configuration says it.
    """

    name: str
    kind: str
    source: str | None
    at: int | None
    verify_iter: int | None


@dataclass(frozen=True)
class Point:
    """One evaluation: an arm and training seed, at a step of a phase, on one variant.

    outcomes: success by the episode's seed, for paired tests.
    recognition: share of what was read right; None where nothing had to be read.
    accuracy: share of single steps that were right; None of environments without steps.
    flops: spent since the initial model, a pretrained one's own cost left out; None unknown.
    flops_formula: by the paper's formula. kl: to the initial model, nats a token.
    """

    arm: str
    seed: int
    phase: str
    step: int
    variant: str
    outcomes: dict[int, bool]
    first_try: float | None
    recognition: float | None
    accuracy: float | None
    flops: float | None
    flops_formula: float | None
    kl: float | None

    @property
    def success(self) -> float:
        """The share of episodes solved, 0 to 1."""
        return sum(self.outcomes.values()) / len(self.outcomes)


@dataclass(frozen=True)
class Study:
    """A study's definition, its points in order of seed, phase and step, and sample episodes."""

    name: str
    folder: Path
    model: str
    parameters: int | None
    from_scratch: bool
    environment: str
    evaluation: str
    arms: list[Arm]
    seeds: list[int]
    variants: list[str]
    inside: list[str]
    points: list[Point]
    samples: list[Record]
    missing: list[str]

    @property
    def outside(self) -> list[str]:
        """Variants out of distribution."""
        return [v for v in self.variants if v not in self.inside]

    def at(self, arm: str, seed: int, variant: str) -> list[Point]:
        """An arm's points of one seed and variant, in order."""
        return [p for p in self.points if (p.arm, p.seed, p.variant) == (arm, seed, variant)]

    def last(self, arm: str, seed: int, variant: str) -> Point | None:
        """The newest point of an arm after training; of an arm of kind start, its only one."""
        found = self.at(arm, seed, variant)
        if self.arm(arm).kind != "start":
            found = [p for p in found if p.phase != "start"]
        return found[-1] if found else None

    def start(self, seed: int, variant: str) -> Point | None:
        """The initial model's point, whichever arm of the seed began with it."""
        pretrained = {arm.name for arm in self.of_kind("pretrain")}
        first = {a.name for a in self.arms if a.source in {None, *pretrained}} - pretrained
        found = (p for p in self.points if p.phase == "start" and p.arm in first)
        return next((p for p in found if (p.seed, p.variant) == (seed, variant)), None)

    def arm(self, name: str) -> Arm:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def of_kind(self, *kinds: str) -> list[Arm]:
        """Arms of these kinds, in the study's order."""
        return [arm for arm in self.arms if arm.kind in kinds]


def run_folder(study: str | Path, arm: str, seed: int) -> Path:
    """Where an arm's run of one training seed lies: STUDY/ARM/seedN, a normal run folder."""
    return Path(study) / arm / f"seed{seed}"


def is_study(folder: str | Path) -> bool:
    """Whether a folder is a study's and not a run's."""
    return (Path(folder) / "study.yaml").is_file()


def read_study(folder: str | Path) -> Study:
    """Read a study's folder as `cardinal study` writes it.

    study.yaml holds `seeds` and `arms` (name to {from, at, set}). Runs lie where `run_folder`
    says, each with config.yaml, metrics.jsonl and outcomes.jsonl: one row an episode of an
    evaluation (`RunLog.outcomes`). An `eval` record of metrics.jsonl may carry kl_start.

    Raises:
        ConfigError: study.yaml or a row of outcomes is missing a part.
    """
    folder = Path(folder)
    said = _definition(folder)
    seeds = list(said["seeds"])
    configs = {name: _config(folder, name, seeds) for name in said["arms"]}
    arms = _arms(folder, said, configs)
    variants: dict[str, Record] = {}
    for config in configs.values():
        variants |= (config.get("eval") or {}).get("variants") or {}
    points: list[Point] = []
    samples: list[Record] = []
    missing = []
    sources = {arm.name: (arm.source, arm.at) for arm in arms}
    for arm in arms:
        for seed in seeds:
            run = run_folder(folder, arm.name, seed)
            if not (run / OUTCOMES).is_file():
                missing.append(f"{arm.name}, seed {seed}")
                continue
            points += _points(run, arm.name, seed, before(folder, sources, arm.name, seed))
            samples += [{"arm": arm.name, "arm_seed": seed} | e for e in episodes(run)]
    first = next((config for config in configs.values() if config), {})
    path = (first.get("model") or {}).get("path")
    return Study(
        folder.name,
        folder,
        str(path or "a tiny model, made from scratch"),
        next(filter(None, (_size(run_folder(folder, a, s)) for a in configs for s in seeds)), None),
        path is None,
        str((first.get("env") or {}).get("id", "")),
        _budget(first),
        arms,
        seeds,
        list(variants),
        [name for name, settings in variants.items() if set(settings or {}) <= SAME_RULE],
        points,
        samples,
        missing,
    )


def _budget(config: Record) -> str:
    """How episodes are evaluated, as far as the configuration says it."""
    temperature = (config.get("eval") or {}).get("temperature")
    tries = ((config.get("env") or {}).get("settings") or {}).get("verify_iter")
    tokens = (config.get("rollout") or {}).get("answer_tokens")
    said = {"temperature {}": temperature, "graded answers: {}": tries, "{} tokens each": tokens}
    return ", ".join(text.format(value) for text, value in said.items() if value is not None)


def _definition(folder: Path) -> Record:
    file = folder / "study.yaml"
    if not file.is_file():
        raise ConfigError(f"{folder}: holds no study.yaml, so it is no study's folder")
    said = yaml.safe_load(file.read_text()) or {}
    for key in ("seeds", "arms"):
        if not (isinstance(said, dict) and said.get(key)):
            raise ConfigError(f"{file}: {key} is missing or empty; a study needs at least one")
    for name, arm in said["arms"].items():
        source = (arm or {}).get("from")
        if source is not None and source not in said["arms"]:
            raise ConfigError(
                f"{file}: arms.{name}.from={source} is not one of {', '.join(said['arms'])}"
            )
    return said


def _config(folder: Path, arm: str, seeds: list[int]) -> Record:
    """The configuration of the first of an arm's runs that was begun; empty without one."""
    return next(filter(None, (load_config(run_folder(folder, arm, s)) for s in seeds)), {})


def _arms(folder: Path, said: Record, configs: dict[str, Record]) -> list[Arm]:
    """The arms, each after its source."""
    found: dict[str, Arm] = {}
    waiting = {name: arm or {} for name, arm in said["arms"].items()}
    while waiting:
        ready = [n for n, arm in waiting.items() if arm.get("from") in {None, *found}]
        if not ready:
            raise ConfigError(
                f"{folder / 'study.yaml'}: arms.{next(iter(waiting))} begins in a circle"
            )
        for name in ready:
            arm, config = waiting.pop(name), configs[name]
            source = found.get(arm.get("from") or "")
            settings = (config.get("env") or {}).get("settings") or {}
            before = found.get(source.source or "") if source else None
            kind = _kind(name, config, source, before)
            tries = settings.get("verify_iter")
            found[name] = Arm(name, kind, source.name if source else None, arm.get("at"), tries)
    return [found[name] for name in said["arms"]]


def _kind(name: str, config: Record, source: Arm | None, before: Arm | None) -> str:
    """An arm's part: SFT that goes on from an SFT arm makes what is begun from it `rl_overfit`.

    An arm called pretrain… stands for the initial model that a tiny one lacks.
    """
    if not config:
        return "not begun"
    if name.startswith(PRETRAIN):
        return "pretrain"
    sft = int((config.get("sft") or {}).get("steps") or 0)
    if not (config.get("ppo") or {}).get("updates"):
        return "sft" if sft else "start"
    if source is None or source.kind in ("pretrain", "start"):
        return "rl" if sft else "rl_without_sft"
    again = before is not None and (source.kind, before.kind) == ("sft", "sft")
    return "rl_overfit" if again else "rl"


def _points(run: Path, arm: str, seed: int, earlier: Spent) -> list[Point]:
    """A run's evaluations, in the order of phases and steps; failed episodes are left out."""
    known, last = _evaluations(run)
    groups: dict[tuple[str, int, str], list[Record]] = {}
    for row in read_lines(run / OUTCOMES):
        for field in FIELDS:
            if field not in row and row.get("end") != "failed":
                raise ConfigError(f"{run / OUTCOMES}: a row has no {field}: {row}")
        if row.get("end") != "failed":
            key = row["stage"], _step(row, last), row["variant"]
            groups.setdefault(key, []).append(row)
    order = {"start": 0, "sft": 1, "ppo": 2}
    points = []
    for phase, step, variant in sorted(groups, key=lambda k: (order.get(k[0], 3), k[1])):
        rows = groups[phase, step, variant]
        record, own = known.get((phase, step, variant), ({}, UNKNOWN))
        spent = earlier + own
        points.append(
            Point(
                arm,
                seed,
                phase,
                step,
                variant,
                {r["seed"]: r["success"] > 0 for r in rows},
                _mean(rows, "first_try"),
                _mean(rows, "recognition"),
                _mean(rows, "per_step_accuracy"),
                _known(spent.flops),
                _known(spent.formula_flops),
                record.get("kl_start"),
            )
        )
    return points


def _mean(rows: list[Record], key: str) -> float | None:
    values = [float(r[key]) for r in rows if r.get(key) is not None]
    values = [value for value in values if math.isfinite(value)]
    return math.fsum(values) / len(values) if values else None


def _step(row: Record, last: dict[str, int]) -> int:
    """Where in its phase an evaluation was; the one at the end says 0."""
    said = row.get("step" if row["stage"] == "sft" else "update") or 0
    return int(said) or last.get(row["stage"], 0)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _evaluations(
    run: Path,
) -> tuple[dict[tuple[str, int, str], tuple[Record, Spent]], dict[str, int]]:
    """Records of evaluations by phase, step and variant; and the last step of each phase."""
    records = list(along(run))
    last = {
        "sft": max((r["step"] for r, _ in records if r["kind"] == "sft"), default=0),
        "ppo": max((r["update"] for r, _ in records if r["kind"] == "ppo"), default=0),
    }
    found = {
        (r["stage"], _step(r, last), r["variant"]): (r, spent)
        for r, spent in records
        if r["kind"] == "eval"
    }
    return found, last


def _size(run: Path) -> int | None:
    """Parameters of a run's model, where its folder is still there."""
    own, path = run / "model", (load_config(run).get("model") or {}).get("path")
    place = own if own.is_dir() else Path(path) if path else own
    return parameters(place) if place.is_dir() else None


def table_rows(study: Study) -> list[Record]:
    """One row a point, for results.csv: shares from 0 to 1, Wilson's interval."""
    rows = []
    for p in study.points:
        found = summarise(p.outcomes.values())
        rows.append(
            {
                "arm": p.arm,
                "seed": p.seed,
                "phase": p.phase,
                "step": p.step,
                "variant": p.variant,
                "distribution": "in" if p.variant in study.inside else "out",
                "n": found["n"],
                "success": p.success,
                "low": found["interval"][0],
                "high": found["interval"][1],
                "first_try": p.first_try,
                "recognition": p.recognition,
                "per_step_accuracy": p.accuracy,
                "flops": p.flops,
                "flops_formula": p.flops_formula,
                "kl_start": p.kl,
            }
        )
    return rows
