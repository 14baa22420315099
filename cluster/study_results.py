"""What a study measured: its folder in, typed rows out.

The folder's form, which the runner writes, is said at `read_study`; complete or not, it is
read as far as it goes. Knows nothing of pages and pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from cluster.metrics import Record, episodes, read
from cluster.statistics import summarise
from cluster.summary import load_config, parameters
from configs.load import ConfigError

KINDS = ("start", "sft", "rl", "rl_without_sft", "rl_overfit")
OUTCOMES = "episodes.parquet"
COLUMNS = ("phase", "step", "variant", "seed", "success")


@dataclass(frozen=True)
class Arm:
    """One way of training; `kind` is its part in the paper's comparisons, one of KINDS."""

    name: str
    kind: str
    begins_from: str | None
    verify_iter: int | None


@dataclass(frozen=True)
class Point:
    """One evaluation: an arm and training seed, at a step of a phase, on one variant.

    outcomes: success by the episode's seed, for paired tests.
    recognition: share of what was read right; None where nothing had to be read.
    flops: spent since the initial model, measured or counted from tokens; None unknown.
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
        """The initial model's point, whichever arm of the seed measured it."""
        found = (p for p in self.points if p.phase == "start" and p.step == 0)
        return next((p for p in found if (p.seed, p.variant) == (seed, variant)), None)

    def arm(self, name: str) -> Arm:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def of_kind(self, *kinds: str) -> list[Arm]:
        """Arms of these kinds, in the study's order."""
        return [arm for arm in self.arms if arm.kind in kinds]


def run_folder(study: str | Path, arm: str, seed: int) -> Path:
    """Where an arm's run of one training seed lies: STUDY/ARM/seed-N, a normal run folder."""
    return Path(study) / arm / f"seed-{seed}"


def is_study(folder: str | Path) -> bool:
    """Whether a folder is a study's and not a run's."""
    return (Path(folder) / "study.yaml").is_file()


def read_study(folder: str | Path) -> Study:
    """Read a study's folder.

    study.yaml holds `name`, `seeds` (list), `variants` (name to settings), `arms` (name to
    {kind, from}: KINDS, and the arm whose trained model it begins with), and may hold
    `in_distribution` (names of variants; `train` and those that begin with `held_out` if not
    given) and `model` {name, parameters, from_scratch}. Runs lie where `run_folder` says, each
    with config.yaml, metrics.jsonl and episodes.parquet: one row an episode of an evaluation,
    with phase (start, sft, ppo), step, variant, seed, success, and where known first_try and
    recognition. An `eval` record of metrics.jsonl may carry flops, flops_formula and kl_start.

    Raises:
        ConfigError: study.yaml or a parquet file is missing a part or contradicts itself.
    """
    folder = Path(folder)
    said = _definition(folder)
    arms, seeds, variants = _arms(folder, said), list(said["seeds"]), list(said["variants"])
    points: list[Point] = []
    samples: list[Record] = []
    missing = []
    for arm in arms:
        for seed in seeds:
            run = run_folder(folder, arm.name, seed)
            if not (run / OUTCOMES).is_file():
                missing.append(f"{arm.name}, seed {seed}")
                continue
            points += _points(run, arm.name, seed)
            samples += [{"arm": arm.name, "arm_seed": seed} | e for e in episodes(run)]
    name, size, scratch = _model(folder, said, arms, seeds)
    inside = said.get("in_distribution") or [
        v for v in variants if v == "train" or v.startswith("held_out")
    ]
    _refuse_unknown(folder, "in_distribution", inside, variants)
    return Study(
        str(said.get("name", folder.name)), folder, name, size, scratch,
        _environment(folder, arms, seeds), arms, seeds, variants, list(inside), points, samples,
        missing,
    )  # fmt: skip


def _definition(folder: Path) -> dict[str, Any]:
    file = folder / "study.yaml"
    if not file.is_file():
        raise ConfigError(f"{folder}: holds no study.yaml, so it is no study's folder")
    said = yaml.safe_load(file.read_text()) or {}
    for key in ("seeds", "variants", "arms"):
        if not (isinstance(said, dict) and said.get(key)):
            raise ConfigError(f"{file}: {key} is missing or empty; a study needs at least one")
    return said


def _arms(folder: Path, said: dict[str, Any]) -> list[Arm]:
    found = []
    for name, settings in said["arms"].items():
        settings = settings or {}
        kind, begins = settings.get("kind", name), settings.get("from")
        if kind not in KINDS:
            raise ConfigError(
                f"{folder / 'study.yaml'}: arms.{name}.kind={kind} is not one of {', '.join(KINDS)}"
            )
        _refuse_unknown(folder, f"arms.{name}.from", [begins] if begins else [], said["arms"])
        runs = (run_folder(folder, name, seed) for seed in said["seeds"])
        configs = (load_config(run) for run in runs if run.is_dir())
        settings_of = ((c.get("env") or {}).get("settings") or {} for c in configs)
        tries = next((s["verify_iter"] for s in settings_of if "verify_iter" in s), None)
        found.append(Arm(str(name), kind, begins, tries))
    return found


def _refuse_unknown(folder: Path, key: str, names: list[str], known: Any) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{folder / 'study.yaml'}: {key}={name} is not one of {', '.join(known)}"
            )


def _points(run: Path, arm: str, seed: int) -> list[Point]:
    """A run's evaluations, in the order of phases and steps."""
    file = run / OUTCOMES
    table = pq.read_table(file)
    for column in COLUMNS:
        if column not in table.column_names:
            raise ConfigError(f"{file}: has no column {column}; it needs {', '.join(COLUMNS)}")
    groups: dict[tuple[str, int, str], list[Record]] = {}
    for row in table.to_pylist():
        groups.setdefault((row["phase"], int(row["step"]), row["variant"]), []).append(row)
    known = _evaluations(run)
    order = {"start": 0, "sft": 1, "ppo": 2}
    points = []
    for phase, step, variant in sorted(groups, key=lambda k: (order.get(k[0], 3), k[1])):
        rows, beside = groups[phase, step, variant], known.get((phase, step, variant), {})
        points.append(Point(
            arm, seed, phase, step, variant, {r["seed"]: bool(r["success"]) for r in rows},
            _mean(rows, "first_try"), _mean(rows, "recognition"), beside.get("flops"),
            beside.get("flops_formula"), beside.get("kl_start"),
        ))  # fmt: skip
    return points


def _mean(rows: list[Record], key: str) -> float | None:
    values = [float(r[key]) for r in rows if r.get(key) is not None]
    values = [value for value in values if math.isfinite(value)]
    return math.fsum(values) / len(values) if values else None


def _evaluations(run: Path) -> dict[tuple[str, int, str], Record]:
    """Records of evaluations by phase, step and variant.

    The one at a phase's end says update 0 where it means the phase's last step.
    """
    found: dict[tuple[str, int, str], Record] = {}
    done = {"start": 0, "sft": 0, "ppo": 0}
    for record in read(run):
        kind = record["kind"]
        if kind in ("sft", "ppo"):
            done[kind] = int(record["step" if kind == "sft" else "update"])
        elif kind == "eval":
            step = record.get("step") or record.get("update") or done[record["stage"]]
            found[record["stage"], int(step), record["variant"]] = record
    return found


def _model(
    folder: Path, said: dict[str, Any], arms: list[Arm], seeds: list[int]
) -> tuple[str, int | None, bool]:
    """(name, parameters, from scratch): as study.yaml says, else as the first run's folder does."""
    told = said.get("model") or {}
    runs = [run_folder(folder, arm.name, seed) for arm in arms for seed in seeds]
    path = next((load_config(r)["model"].get("path") for r in runs if load_config(r)), None)
    size = told.get("parameters") or next(
        (parameters(r / "model") for r in runs if (r / "model").is_dir()), None
    )
    scratch = bool(told.get("from_scratch", path is None))
    return str(told.get("name") or path or "a tiny model of our own"), size, scratch


def _environment(folder: Path, arms: list[Arm], seeds: list[int]) -> str:
    runs = (load_config(run_folder(folder, arm.name, seed)) for arm in arms for seed in seeds)
    return next((str((c.get("env") or {}).get("id", "")) for c in runs if c), "")


def table_rows(study: Study) -> list[dict[str, Any]]:
    """One row a point, for results.csv: shares from 0 to 1, Wilson's interval."""
    rows = []
    for p in study.points:
        found = summarise(p.outcomes.values())
        rows.append({
            "arm": p.arm, "seed": p.seed, "phase": p.phase, "step": p.step, "variant": p.variant,
            "distribution": "in" if p.variant in study.inside else "out", "n": found["n"],
            "success": p.success, "low": found["interval"][0], "high": found["interval"][1],
            "first_try": p.first_try, "recognition": p.recognition, "flops": p.flops,
            "flops_formula": p.flops_formula, "kl_start": p.kl,
        })  # fmt: skip
    return rows
