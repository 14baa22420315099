"""Reads a study's YAML into its arms and the configuration of each run; errors are one sentence.

An arm is the base configuration with other keys; it may begin from another arm's checkpoint. A
sweep is several arms.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import cast

import yaml

from configs.load import ConfigError, load
from configs.paths import below
from configs.primary import START, Primary, check_primary, parse_primary
from configs.schema import RunConfig
from configs.seeds import intersect, ppo_seeds
from configs.text import one_line
from configs.values import read_yaml, untyped

FOLDER = Path(__file__).parent / "studies"
OVERRIDES = {"set", "sweep", "arms"}  # whose values get their types from the keys of a run
KEYS = {"base", "root", "set", "seeds", "arms", "primary"}
PRETRAIN = "pretrain"  # an arm whose name begins so makes the initial model of a study from scratch
ARM_KEYS = {"from", "at", "match", "set", "sweep"}


@dataclass(frozen=True)
class Arm:
    """One arm.

    source: the arm whose checkpoint it begins from; None begins from the base's own model.
    at: SFT step of that checkpoint; None is the source's last.
    overrides: `key=value`, which stand above the study's.
    match: the arm whose FLOPs this one is to spend; None keeps sft.steps and ppo.updates as set.
    like: of a matched arm of PPO the one that differs in its updates alone, and shows their FLOPs.
    """

    name: str
    source: str | None = None
    at: int | None = None
    overrides: tuple[str, ...] = ()
    match: str | None = None
    like: str | None = None

    @property
    def needs(self) -> list[str]:
        """The arms that must have finished before this one starts."""
        return [name for name in (self.source, self.match, self.like) if name]

    @property
    def matched(self) -> str:
        """The key that `match` chooses: PPO's updates where there is no SFT."""
        return "ppo.updates" if "sft.steps=0" in self.overrides else "sft.steps"


@dataclass(frozen=True)
class StudyConfig:
    """A checked study; each of its `arms` comes after those that it needs.

    primary: the comparisons that the study is made for; all others are exploratory.
    """

    name: str
    base: str
    root: str = "runs"
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    arms: dict[str, Arm] = field(default_factory=dict)
    primary: tuple[Primary, ...] = ()

    @property
    def folder(self) -> Path:
        """Where runs and results go: root/name, absolute."""
        return (Path(self.root) / self.name).resolve()

    def run(self, arm: str, seed: int, steps: int = 0) -> RunConfig:
        """The configuration of an arm's run, whose folder is folder/arm/seedK.

        steps: of SFT or updates, for an arm with `match` alone; 0 until that has run: a few then.
        """
        this = self.arms[arm]
        overrides = [*self.overrides, *this.overrides]
        if source := this.source and self.run(this.source, seed):
            overrides.append(f"model.path={_json(str(self._checkpoint(this, seed, source)))}")
            if (origin := self.origin(arm)) != arm:
                start = self.folder / origin / f"seed{seed}"
                overrides.append(f"eval.start={_json(str(start))}")
        if this.match:
            few = 1 + _loaded(self.base, tuple(overrides)).ppo.critic_warmup
            overrides.append(f"{this.matched}={steps or few}")
        root = _json(str(self.folder / arm))
        overrides += [f"seed={seed}", f"name=seed{seed}", f"cluster.root={root}"]
        cfg = _loaded(self.base, tuple(overrides))
        if cfg.learner.checkpoint_root:  # every arm has a run of this name
            states = below(cfg.learner.checkpoint_root, self.name, arm)
            cfg = replace(cfg, learner=replace(cfg.learner, checkpoint_root=states))
        if cfg.sft.steps and (skip := self._seen(this, seed, cfg)):
            return replace(cfg, sft=replace(cfg.sft, skip=cfg.sft.skip + skip))
        return cfg

    def _seen(self, arm: Arm, seed: int, cfg: RunConfig) -> int:
        """Demonstrations of `cfg` that all arms before this one took."""
        if arm.source is None:
            return 0
        before, source = self.run(arm.source, seed), self.arms[arm.source]
        own = 0
        if before.sft.steps and _data(before) == _data(cfg):
            own = self._steps(arm, seed, before) * before.sft.batch_size
        return own + self._seen(source, seed, cfg)

    def _steps(self, arm: Arm, seed: int, source: RunConfig) -> int:
        """The source's SFT steps that an arm's initial model has made.

        A matched source's are known once it has begun; 0 before.
        """
        assert arm.source is not None
        if arm.at is not None:
            return arm.at
        if self.arms[arm.source].match is None:
            return source.sft.steps
        file = self.folder / arm.source / f"seed{seed}" / "config.yaml"
        return load(file, allow_no_training=True).sft.steps if file.is_file() else 0

    def origin(self, arm: str) -> str:
        """The arm whose first model is the initial model of this one: it follows pretraining."""
        source = self.arms[arm].source
        return arm if source is None or source.startswith(PRETRAIN) else self.origin(source)

    def _checkpoint(self, arm: Arm, seed: int, source: RunConfig) -> Path:
        """The model folder that a run of an arm with a source begins from.

        Raises:
            ConfigError: the source keeps no checkpoint of step `at`, or none at all.
        """
        assert arm.source is not None
        if not (source.sft.steps or source.ppo.updates):
            raise ConfigError(f"arms.{arm.name}.from={arm.source}: that arm trains no model")
        stage = "ppo" if source.ppo.updates else "sft"
        if arm.at is not None:
            last = [] if self.arms[arm.source].match else [source.sft.steps]
            kept = [*source.sft.keep, *last]
            if arm.at not in kept or arm.at == 0:
                raise ConfigError(
                    f"arms.{arm.name}.at={arm.at}: arm {arm.source} keeps SFT steps {kept}; "
                    "sft.keep adds one"
                )
            stage = "sft" if arm.at == source.sft.steps else f"sft-{arm.at}"
        return self.folder / arm.source / f"seed{seed}" / "checkpoints" / stage

    def measured(self, arm: str) -> list[str]:
        """The arms that show what a step or update of a matched one costs, nearest first."""
        names, at = list[str](), self.arms[arm]
        if at.matched == "ppo.updates":
            return [at.like] if at.like else []
        while at.source is not None:
            names.append(at.source)
            at = self.arms[at.source]
        names += filter(None, [self.arms[arm].match])
        return [name for name in names if self.run(name, self.seeds[0]).sft.steps]


@cache
def _loaded(base: str, overrides: tuple[str, ...]) -> RunConfig:
    """Each arm is asked for by all that begin from it."""
    return load(base, overrides, allow_no_training=True)


def _data(cfg: RunConfig) -> tuple[object, ...]:
    """What decides which demonstrations a run has, but for its seed."""
    return cfg.env.id, cfg.env.settings, cfg.sft.data, cfg.sft.demonstrations


def load_study(path: str | Path) -> StudyConfig:
    """Read and check a study.

    Args:
        path: a YAML file, or the bare name of one in configs/studies/.

    Raises:
        ConfigError: one sentence with the file, the key, the value and the rule.
    """
    file = _find(path)
    try:
        return _load(file)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(file)) else f"{file}: {text}") from error


def _load(file: Path) -> StudyConfig:
    values = _read(file)
    if not isinstance(base := values.get("base"), str):
        raise ConfigError(f"{file}: base must name a configuration")
    seeds = _seeds(values.get("seeds", [0]), file)
    arms = _all_arms(values.get("arms"), file)
    next_to_it = file.parent / base
    study = StudyConfig(
        name=file.stem,
        base=str(next_to_it) if next_to_it.is_file() else base,
        root=str(values.get("root", "runs")),
        overrides=tuple(_pairs(values.get("set"), "set")),
        seeds=seeds,
        arms=_ordered(arms),
    )
    for arm in study.arms.values():
        _check_arm(study, arm)
    runs = {arm: study.run(arm, seeds[0]) for arm in study.arms}
    every = dict.fromkeys(variant for run in runs.values() for variant in run.eval.variants)
    primary = parse_primary(values.get("primary"), study.arms, every)
    check_primary(primary, seeds, runs, {arm: study.origin(arm) for arm in runs})
    return replace(study, primary=primary)


def _find(path: str | Path) -> Path:
    file = Path(path)
    if not file.is_file():
        file = FOLDER / f"{file.name.removesuffix('.yaml')}.yaml"
    if not file.is_file():
        names = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise ConfigError(f"{path}: there is no such study; configs/studies has {names}")
    return file


def _read(file: Path) -> dict[str, object]:
    try:
        values = read_yaml(file.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not YAML: {one_line(error, None)}") from error
    return _mapping(values, KEYS, str(file))


def _seeds(given: object, file: Path) -> tuple[int, ...]:
    if not isinstance(given, list) or not given or not all(type(s) is int for s in given):
        raise ConfigError(f"{file}: seeds={given!r} must be a list of whole numbers")
    if len(set(given)) != len(given):
        raise ConfigError(f"{file}: seeds={given!r} names a seed twice")
    return tuple(given)


def _all_arms(given: object, file: Path) -> dict[str, Arm]:
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"{file}: arms must hold at least one arm")
    arms: dict[str, Arm] = {}
    for name, values in given.items():
        for arm in _arms(str(name), {} if untyped(values) is None else values):
            if arm.name in arms:
                raise ConfigError(f"arms.{arm.name}: there are two arms of this name")
            arms[arm.name] = arm
    return {name: replace(arm, like=_like(arm, arms)) for name, arm in arms.items()}


def _like(arm: Arm, arms: dict[str, Arm]) -> str | None:
    """The arm that differs from a matched one of PPO in its updates alone."""

    def task(a: Arm) -> tuple[object, ...]:
        return a.source, a.at, {t for t in a.overrides if not t.startswith("ppo.updates=")}

    alike = (a.name for a in arms.values() if a.match is None and task(a) == task(arm))
    return next(alike, None) if arm.match and arm.matched == "ppo.updates" else None


def _check_arm(study: StudyConfig, arm: Arm) -> None:
    """Refuse an arm whose configuration or `match` is refused; the error begins with an arm."""
    try:
        _check_seeds({seed: study.run(arm.name, seed) for seed in study.seeds})
        _check_match(study, arm)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(
            text if text.startswith("arms.") else f"arms.{arm.name}: {text}"
        ) from error


def _check_seeds(runs: dict[int, RunConfig]) -> None:
    """Refuse runs that would train on each other's episodes: their results are not independent."""
    for (one, first), (other, second) in itertools.combinations(runs.items(), 2):
        if intersect(ppo_seeds(first), ppo_seeds(second)):
            raise ConfigError(
                f"seeds: runs of {one} and {other} would play the same episodes in PPO; choose "
                "other seeds, such as 0, 1, 2, …"
            )


def _arms(name: str, given: object) -> list[Arm]:
    """An arm, or those of its sweep: one for each combination of values."""
    where = f"arms.{name}"
    if Path(name).name != name or name in ("", ".", ".."):
        raise ConfigError(f"{where}: must be a plain folder name")
    if name == START:
        raise ConfigError(f"{where}: {START} stands for the initial model; name the arm otherwise")
    keys = _mapping(given, ARM_KEYS, where)
    sweep = keys.get("sweep") or {}
    if not isinstance(sweep, dict) or not all(isinstance(v, list) and v for v in sweep.values()):
        raise ConfigError(f"{where}.sweep={sweep!r}: must hold keys and lists of values")
    source, match = (cast("str | None", keys.get(key)) for key in ("from", "match"))
    at = keys.get("at")
    if at is not None and (type(at) is not int or source is None):
        raise ConfigError(f"{where}.at={at!r}: must be an SFT step of the arm that from names")
    pairs = _pairs(keys.get("set"), f"{where}.set")
    arms = []
    for values in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, values, strict=True))
        suffix = "".join(f"_{key.split('.')[-1]}-{_text(one)}" for key, one in chosen.items())
        overrides = (*pairs, *_pairs(chosen, f"{where}.sweep"))
        arm = Arm(name + suffix, source, cast("int | None", at), overrides, match)
        if Path(arm.name).name != arm.name:
            raise ConfigError(f"{where}.sweep: {arm.name!r} must be a plain folder name")
        arms.append(arm)
    return arms


def _pairs(given: object, where: str) -> list[str]:
    """`key=value` texts of a list of them or of a mapping."""
    if untyped(given) is None:
        return []
    if isinstance(given, dict):
        return [f"{key}={_override(value)}" for key, value in given.items()]
    if isinstance(given, list) and all(isinstance(text, str) for text in given):
        return [str(text) for text in given]
    raise ConfigError(f"{where}={untyped(given)!r}: must be a mapping or a list of key=value")


def _text(value: object) -> str:
    """A value as it stands in the study, else as JSON."""
    return str(value) if isinstance(value, str) else _json(untyped(value))


def _override(value: object) -> str:
    """A value for `key=value`: a number as it stands, all else as JSON."""
    plain = untyped(value)
    return _json(plain) if isinstance(plain, str | list | dict) else str(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _check_match(study: StudyConfig, arm: Arm) -> None:
    """Refuse a `match` of an arm that does not begin from the same model, or spends no FLOPs."""
    if arm.match is None:
        return
    other, seed = study.arms[arm.match], study.seeds[0]
    matched = study.run(other.name, seed)
    begin = [f"{a.source or 'the base'}{f' at {a.at}' if a.at else ''}" for a in (arm, other)]
    checks = {
        f"begins from {begin[0]}, {other.name} from {begin[1]}; it must be the same model": (
            begin[0] != begin[1]
        ),
        f"{other.name} trains nothing": not (matched.sft.steps or matched.ppo.updates),
        "chooses SFT steps; ppo.updates must be 0": (
            arm.matched == "sft.steps" and study.run(arm.name, seed).ppo.updates > 0
        ),
        f"chooses {arm.matched}; leave it out of set": any(
            text.startswith(f"{arm.matched}=") for text in arm.overrides
        ),
        f"no arm tells what one of {arm.matched} costs: SFT before it or of {other.name}, or PPO "
        "that differs in ppo.updates alone": not study.measured(arm.name),
    }
    for sentence, holds in checks.items():
        if holds:
            raise ConfigError(f"arms.{arm.name}.match={arm.match}: {sentence}")


def _ordered(arms: dict[str, Arm]) -> dict[str, Arm]:
    """The arms, each after those that it needs; otherwise in the order of the file."""
    ordered: dict[str, Arm] = {}

    def add(arm: Arm, after: tuple[str, ...]) -> None:
        for key, name in (("from", arm.source), ("match", arm.match), ("like", arm.like)):
            where = f"arms.{arm.name}.{key}={name}"
            if name is not None and name not in arms:
                raise ConfigError(f"{where}: there is no such arm; there are {', '.join(arms)}")
            if name in (*after, arm.name):
                raise ConfigError(f"{where}: goes round in a circle")
            if name is not None and name not in ordered:
                add(arms[name], (*after, arm.name))
        ordered[arm.name] = arm

    for arm in arms.values():
        if arm.name not in ordered:
            add(arm, ())
    return ordered


def _mapping(given: object, known: set[str], where: str) -> dict[str, object]:
    """The given value, which must be a mapping of known keys."""
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: must hold keys and values")
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{where}: there is no key {key}; there are {', '.join(sorted(known))}"
            )
    return {key: value if key in OVERRIDES else untyped(value) for key, value in given.items()}
