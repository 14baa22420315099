"""What a study measured, as typed rows.

Input: a study's folder, whose form is described at `read_study`; an incomplete one is read as far
as it goes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import yaml

from configs.load import ConfigError
from configs.primary import MEASURES, START, TRAINING_ALONE, Primary, evaluated, parse_primary
from configs.study import PRETRAIN
from configs.text import one_line
from report.evaluation import FIRST_TRY, SUCCESS, questions_name
from report.floors import Floors, read_floors
from report.metrics import OUTCOMES, Record, episodes
from report.study.compute import before, whole_config
from report.study.points import KS, Point, interval, passes, read_points
from report.summary import ended, load_config, parameters

Found = TypeVar("Found")
KINDS = ("pretrain", "start", "sft", "rl", "rl_without_sft", "rl_overfit", "not begun")
# Settings that change no rule and no picture.
SAME_RULE = {"hands", "require_face", "verify_iter", "feedback"}


@dataclass(frozen=True)
class Arm:
    """One way of training.

    kind: its part in the paper's comparisons, one of KINDS.
    source, at: the arm whose model it begins with, and after which SFT step (None: its end).
    verify_iter: graded answers per episode in training, where the configuration has it.
    """

    name: str
    kind: str
    source: str | None
    at: int | None
    verify_iter: int | None


@dataclass(frozen=True)
class Study:
    """A study's definition, its points in order of seed, phase and step, and sample episodes.

    configs: of each arm's first run that was begun, empty before that.
    finished: arm and training seed of the runs that have ended as planned.
    floors: by arm, of its first run that has them.
    damaged: runs that cannot be read, and why; nothing of them is in points.
    """

    name: str
    folder: Path
    configs: dict[str, Record]
    model: str
    parameters: int | None
    from_scratch: bool
    environment: str
    evaluation: str
    arms: list[Arm]
    seeds: list[int]
    variants: list[str]
    inside: list[str]
    primary: tuple[Primary, ...]
    points: list[Point]
    samples: list[Record]
    finished: set[tuple[str, int]]
    floors: dict[str, Floors] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def questions(self) -> str:
        """What an episode asks: hands, routes, or questions."""
        return questions_name({"env": {"id": self.environment}})

    def headline(self, variant: str) -> str:
        """The measure that all arms are shown by on a variant: FIRST_TRY if any has several tries.

        With one try both measures are the same.
        """
        mine = {p.headline for p in self.points if p.variant == variant}
        return FIRST_TRY if FIRST_TRY in mine else SUCCESS

    def lead(self, point: Point) -> float:
        """A point's share by its variant's headline."""
        share = point.share(self.headline(point.variant))
        return point.success if share is None else share

    @property
    def missing(self) -> list[str]:
        """Runs that have not finished."""
        runs = ((arm.name, seed) for arm in self.arms for seed in self.seeds)
        return [f"{arm}, seed {seed}" for arm, seed in runs if (arm, seed) not in self.finished]

    @property
    def outside(self) -> list[str]:
        """Variants out of distribution."""
        return [v for v in self.variants if v not in self.inside]

    def at(self, arm: str, seed: int, variant: str) -> list[Point]:
        """An arm's points of one seed and variant, in order."""
        return [p for p in self.points if (p.arm, p.seed, p.variant) == (arm, seed, variant)]

    def last(self, arm: str, seed: int, variant: str) -> Point | None:
        """An arm's end: the last point of a run that has finished; None of one that has not.

        Of an arm of kind start it is the only point.
        """
        if (arm, seed) not in self.finished:
            return None
        found = self.at(arm, seed, variant)
        if self.arm(arm).kind != "start":
            found = [p for p in found if p.phase != "start"]
        return found[-1] if found else None

    def plays(self, arm: str, variant: str) -> dict[str, object]:
        """The settings of a variant in an arm's evaluations (`configs.primary.evaluated`)."""
        config = self.configs.get(arm) or {}
        env, variants = config.get("env") or {}, (config.get("eval") or {}).get("variants") or {}
        settings, own = env.get("settings") or {}, variants.get(variant) or {}
        return evaluated(str(env.get("id", "")), config.get("preset"), settings, own)

    def origin(self, arm: str) -> str:
        """The arm whose first model is the initial model of this one: it follows pretraining."""
        source = self.arm(arm).source
        first = source is None or self.arm(source).kind == "pretrain"
        return arm if source is None or first else self.origin(source)

    @cached_property
    def starts(self) -> dict[str, list[str]]:
        """The initial models, by name: the arms that begin with each and evaluate it alike.

        Mostly one, START. Arms that begin with other models, or play a variant otherwise, have
        one of their own.
        """
        found: dict[str, list[str]] = {}
        for arm in self.arms:
            if arm.kind not in ("pretrain", "not begun") and self.origin(arm.name) == arm.name:
                played = [self._asked(arm.name, variant) for variant in self.variants]
                model = (self.configs.get(arm.name) or {}).get("model") or {}
                made = (model.get("path"), model.get("init")) if arm.source is None else arm.at
                key = json.dumps([arm.source, made, played], sort_keys=True)
                found.setdefault(key, []).append(arm.name)
        several = len(found) > 1
        return {f"{START} of {a[0]}" if several else START: a for a in found.values()}

    def _asked(self, arm: str, variant: str) -> dict[str, object]:
        played = self.plays(arm, variant).items()
        return {key: value for key, value in played if key not in TRAINING_ALONE}

    def initial(self, arm: str) -> str | None:
        """The name in `starts` of an arm's initial model; None where it was not begun."""
        first = self.origin(arm)
        return next((name for name, arms in self.starts.items() if first in arms), None)

    def start(self, arm: str, seed: int, variant: str) -> Point | None:
        """The point of an arm's initial model, of whichever arm of the seed began with it."""
        return self._started(self.initial(arm), seed, variant)

    def _started(self, start: str | None, seed: int, variant: str) -> Point | None:
        first = self.starts.get(start or "", ())
        found = (p for arm in first for p in self.at(arm, seed, variant) if p.phase == "start")
        return next(found, None)

    def ends(self, name: str, variant: str) -> list[Point]:
        """An arm's end, or an initial model of `starts`, of each training seed that has one."""
        of = self._started if name in self.starts else self.last
        return [p for seed in self.seeds if (p := of(name, seed, variant))]

    def arm(self, name: str) -> Arm:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def of_kind(self, *kinds: str) -> list[Arm]:
        """Arms of these kinds, in the study's order."""
        return [arm for arm in self.arms if arm.kind in kinds]


def run_folder(study: str | Path, arm: str, seed: int) -> Path:
    """Where an arm's run of one training seed is: STUDY/ARM/seedN, a normal run folder."""
    return Path(study) / arm / f"seed{seed}"


def is_study(folder: str | Path) -> bool:
    """Whether a folder is a study's and not a run's."""
    return (Path(folder) / "study.yaml").is_file()


def read_study(folder: str | Path) -> Study:
    """Read a study's folder as `cardinal study` writes it.

    study.yaml holds `seeds` and `arms` (name to {from, at, set}). Runs lie where `run_folder`
    says, each with config.yaml, metrics.jsonl and outcomes.jsonl: one row per episode of an
    evaluation (`RunLog.outcomes`). An `eval` record of metrics.jsonl may carry kl_start.

    Raises:
        ConfigError: study.yaml cannot be read or is missing a part.
    """
    folder = Path(folder)
    said = _definition(folder)
    seeds = list(said["seeds"])
    configs = {name: _config(folder, name, seeds) for name in said["arms"]}
    arms = _arms(folder, said, configs)
    variants: dict[str, Record] = {}
    for config in configs.values():
        variants |= (config.get("eval") or {}).get("variants") or {}
    points, samples, finished, damaged = _runs(folder, arms, seeds, configs)
    first = next((config for config in configs.values() if config), {})
    path = (first.get("model") or {}).get("path")
    sizes = (_of_some_run(folder, arm, seeds, _size) for arm in configs)
    return Study(
        name=folder.name,
        folder=folder,
        configs=configs,
        model=str(path or "a tiny model, made from scratch"),
        parameters=next(filter(None, sizes), None),
        from_scratch=path is None,
        environment=str((first.get("env") or {}).get("id", "")),
        evaluation=_budget(first),
        arms=arms,
        seeds=seeds,
        variants=list(variants),
        inside=[name for name, changed in variants.items() if set(changed or {}) <= SAME_RULE],
        primary=parse_primary(said.get("primary"), said["arms"], [*variants, *_named(said)]),
        points=points,
        samples=samples,
        finished=finished,
        floors=_floors(folder, list(configs), seeds),
        damaged=damaged,
    )


def _runs(
    folder: Path, arms: list[Arm], seeds: list[int], configs: dict[str, Record]
) -> tuple[list[Point], list[Record], set[tuple[str, int]], dict[str, str]]:
    """Points and sample episodes of all runs, which have finished, and which cannot be read."""
    sources = {arm.name: (arm.source, arm.at) for arm in arms}
    points: list[Point] = []
    samples: list[Record] = []
    finished, damaged = set[tuple[str, int]](), dict[str, str]()
    for arm, seed in ((arm.name, seed) for arm in arms for seed in seeds):
        run = run_folder(folder, arm, seed)
        temperature = (configs[arm].get("eval") or {}).get("temperature", 1.0)
        if not (run / OUTCOMES).is_file():
            continue
        try:
            load_config(run)
            spent, status = before(folder, sources, arm, seed), ended(run)["status"]
            mine, played = read_points(run, arm, seed, spent, temperature), episodes(run)
        except ConfigError as error:
            damaged[f"{arm}, seed {seed}"] = str(error)
            continue
        if status == "finished":
            finished.add((arm, seed))
        points += mine
        samples += [{"arm": arm, "arm_seed": seed} | e for e in played]
    return points, samples, finished, damaged


def _of_some_run(folder: Path, arm: str, seeds: list[int], read: Callable[[Path], Found]) -> Found:
    """What the first of an arm's runs has that has it and can be read; else what none has."""
    found = read(folder / "nowhere")
    for seed in seeds:
        with suppress(ConfigError):  # `_runs` names it
            found = found or read(run_folder(folder, arm, seed))
    return found


def _floors(folder: Path, arms: list[str], seeds: list[int]) -> dict[str, Floors]:
    found = {arm: _of_some_run(folder, arm, seeds, read_floors) for arm in arms}
    return {arm: floors for arm, floors in found.items() if floors}


def _named(said: Record) -> list[str]:
    """The variants that primary comparisons name: no run may have been begun that has them."""
    return [str(entry.get("variant")) for entry in said.get("primary") or []]


def _budget(config: Record) -> str:
    """How episodes are evaluated, as far as the configuration has it."""
    temperature = (config.get("eval") or {}).get("temperature")
    tries = ((config.get("env") or {}).get("settings") or {}).get("verify_iter")
    tokens = (config.get("rollout") or {}).get("answer_tokens")
    said = {"temperature {}": temperature, "graded answers: {}": tries, "{} tokens each": tokens}
    return ", ".join(text.format(value) for text, value in said.items() if value is not None)


def _definition(folder: Path) -> Record:
    file = folder / "study.yaml"
    if not file.is_file():
        raise ConfigError(f"{folder}: holds no study.yaml, so it is no study's folder")
    try:
        said = yaml.safe_load(file.read_bytes()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not YAML: {one_line(error, None)}") from error
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
    return _of_some_run(folder, arm, seeds, whole_config)


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
    """An arm's part: SFT that continues from an SFT arm makes what is begun from it `rl_overfit`.

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


def _size(run: Path) -> int | None:
    """Parameters of a run's model, where its folder is still there."""
    own, path = run / "model", (load_config(run).get("model") or {}).get("path")
    place = own if own.is_dir() else Path(path) if path else own
    return parameters(place) if place.is_dir() else None


def table_rows(study: Study) -> list[Record]:
    """One row per point, for points.csv: shares from 0 to 1, intervals clustered by question."""
    return [_table_row(study, point) for point in study.points]


def _table_row(study: Study, p: Point) -> Record:
    tallies = p.measures["success"]
    low, high = interval(tallies)
    by_k = passes(p)
    return {
        "arm": p.arm,
        "seed": p.seed,
        "phase": p.phase,
        "step": p.step,
        "variant": p.variant,
        "distribution": "in" if p.variant in study.inside else "out",
        "overlap": p.overlap,
        "headline": p.headline,
        "decoding": p.decoding,
        "n": p.rows,
        "questions": len(tallies),
        "success": p.success,
        "low": low,
        "high": high,
        "sampled": p.sampled,
        **{f"pass_at_{k}": by_k.get(k) for k in KS},
        **{measure: p.share(measure) for measure in MEASURES[1:]},
        "flops": p.flops,
        "flops_formula": p.flops_formula,
        "kl_start": p.kl,
    }
