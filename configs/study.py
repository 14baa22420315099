"""A study's YAML in, its arms with the configuration of each run out, or one sentence why not.

An arm is a base configuration with other keys, perhaps begun from another arm's checkpoint; a
sweep is several arms. Nothing here starts a run.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from configs.load import ConfigError, load
from configs.primary import Primary, parse_primary
from configs.schema import RunConfig

FOLDER = Path(__file__).parent / "studies"
KEYS = {"base", "root", "set", "seeds", "arms", "primary"}
PRETRAIN = "pretrain"  # arms of such names make the initial model that a tiny one lacks
ARM_KEYS = {"from", "at", "match", "set", "sweep"}


@dataclass(frozen=True)
class Arm:
    """One arm.

    source: the arm whose checkpoint it begins from; None is the base's own model.
    at: SFT step of that checkpoint; None is the source's last.
    overrides: `key=value` above the study's.
    match: the arm whose FLOPs its SFT steps are to spend; None leaves them as they are set.
    """

    name: str
    source: str | None = None
    at: int | None = None
    overrides: tuple[str, ...] = ()
    match: str | None = None

    @property
    def needs(self) -> list[str]:
        """The arms that must have finished before."""
        return [name for name in (self.source, self.match) if name]


@dataclass(frozen=True)
class StudyConfig:
    """A checked study; `arms` stand in an order in which each comes after those it needs.

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

    def run(self, arm: str, seed: int, steps: int = 1) -> RunConfig:
        """The configuration of an arm's run, whose folder is folder/arm/seedK.

        steps: of SFT, of an arm with `match` alone; they are not known before that has run.
        """
        found, above = self.arms[arm], []
        if found.source:
            above = [f"model.path={json.dumps(str(self.checkpoint(found, seed)))}"]
            if (origin := self.origin(arm)) != arm:
                start = self.folder / origin / f"seed{seed}"
                above.append(f"eval.start={json.dumps(str(start))}")
        if found.match:
            above.append(f"sft.steps={steps}")
        place = [f"seed={seed}", f"name=seed{seed}",
                 f"cluster.root={json.dumps(str(self.folder / arm))}"]  # fmt: skip
        return load(self.base, [*self.overrides, *found.overrides, *above, *place], idle=True)

    def origin(self, arm: str) -> str:
        """The arm at whose beginning stands the initial model of this one: after pretraining."""
        source = self.arms[arm].source
        return arm if source is None or source.startswith(PRETRAIN) else self.origin(source)

    def checkpoint(self, arm: Arm, seed: int) -> Path:
        """The model folder that a run of an arm with a source begins from.

        Raises:
            ConfigError: the source keeps no checkpoint of step `at`, or none at all.
        """
        assert arm.source is not None
        source = self.run(arm.source, seed)
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
        """The arms whose SFT tells what a step of a matched one costs, the nearest first."""
        found, chain = self.arms[arm], list[str]()
        while (source := self.arms[[arm, *chain][-1]].source) is not None:
            chain.append(source)
        chain += [found.match] if found.match else []
        return [name for name in chain if self.run(name, self.seeds[0]).sft.steps]


def load_study(path: str | Path) -> StudyConfig:
    """Read and check a study.

    Args:
        path: a YAML file, or the bare name of one in configs/studies/.

    Raises:
        ConfigError: one sentence with the key, the value and the rule.
    """
    file = Path(path)
    if not file.is_file():
        file = FOLDER / f"{file.name.removesuffix('.yaml')}.yaml"
    if not file.is_file():
        names = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise ConfigError(f"{path}: there is no such study; configs/studies has {names}")
    try:
        values = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    _keys(values, KEYS, str(file))
    if not isinstance(values.get("base"), str):
        raise ConfigError(f"{file}: base must name a configuration")
    seeds = values.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int for s in seeds):
        raise ConfigError(f"{file}: seeds={seeds!r} must be a list of whole numbers")
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"{file}: seeds={seeds!r} names a seed twice")
    if not isinstance(values.get("arms"), dict) or not values["arms"]:
        raise ConfigError(f"{file}: arms must hold at least one arm")
    arms: dict[str, Arm] = {}
    for name, given in values["arms"].items():
        for arm in _arms(str(name), {} if given is None else given):
            if arm.name in arms:
                raise ConfigError(f"arms.{arm.name}: there are two arms of this name")
            arms[arm.name] = arm
    base = values["base"]
    beside = file.parent / base
    study = StudyConfig(
        file.stem, str(beside) if beside.is_file() else base, str(values.get("root", "runs")),
        tuple(_pairs(values.get("set"), "set")), tuple(seeds), _ordered(arms),
    )  # fmt: skip
    for name in study.arms:
        try:
            study.run(name, seeds[0])
            _check_match(study, study.arms[name])
        except ConfigError as error:
            text = str(error)
            raise ConfigError(
                text if text.startswith("arms.") else f"arms.{name}: {text}"
            ) from error
    primary = parse_primary(values.get("primary"), study.arms, _variants(study))
    return replace(study, primary=primary)


def _variants(study: StudyConfig) -> list[str]:
    """The evaluation variants of all arms."""
    runs = (study.run(arm, study.seeds[0]) for arm in study.arms)
    return list(dict.fromkeys(variant for run in runs for variant in run.eval.variants))


def _arms(name: str, given: Any) -> list[Arm]:
    """An arm, or those of its sweep: one for each combination of values."""
    where = f"arms.{name}"
    if Path(name).name != name or name in ("", ".", ".."):
        raise ConfigError(f"{where}: must be a plain folder name")
    _keys(given, ARM_KEYS, where)
    sweep = given.get("sweep") or {}
    if not isinstance(sweep, dict) or not all(isinstance(v, list) and v for v in sweep.values()):
        raise ConfigError(f"{where}.sweep={sweep!r}: must hold keys and lists of values")
    source, at, match = (given.get(key) for key in ("from", "at", "match"))
    if at is not None and (type(at) is not int or source is None):
        raise ConfigError(f"{where}.at={at!r}: must be an SFT step of the arm that from names")
    pairs = _pairs(given.get("set"), f"{where}.set")
    found = []
    for values in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, values, strict=True))
        suffix = "".join(f"_{key.split('.')[-1]}-{value}" for key, value in chosen.items())
        overrides = (*pairs, *_pairs(chosen, f"{where}.sweep"))
        arm = Arm(name + suffix, source, at, overrides, match)
        if Path(arm.name).name != arm.name:
            raise ConfigError(f"{where}.sweep: {arm.name!r} must be a plain folder name")
        found.append(arm)
    return found


def _pairs(given: Any, where: str) -> list[str]:
    """`key=value` texts of a list of them or of a mapping."""
    if given is None:
        return []
    if isinstance(given, dict):
        return [f"{key}={json.dumps(value)}" for key, value in given.items()]
    if isinstance(given, list) and all(isinstance(text, str) for text in given):
        return given
    raise ConfigError(f"{where}={given!r}: must be a mapping or a list of key=value")


def _check_match(study: StudyConfig, arm: Arm) -> None:
    """Refuse a `match` that is not one of compute from the same start."""
    if arm.match is None:
        return
    other, seed = study.arms[arm.match], study.seeds[0]
    spends = study.run(other.name, seed)
    begin = [f"{a.source or 'the base'}{f' at {a.at}' if a.at else ''}" for a in (arm, other)]
    checks = {
        f"begins from {begin[0]}, {other.name} from {begin[1]}; it must be the same model": (
            begin[0] != begin[1]
        ),
        f"{other.name} trains nothing": not (spends.sft.steps or spends.ppo.updates),
        "chooses SFT steps; ppo.updates must be 0": study.run(arm.name, seed).ppo.updates > 0,
        "chooses sft.steps; leave it out of set": any(
            text.startswith("sft.steps=") for text in arm.overrides
        ),
        f"no SFT of an arm before it, or of {other.name}, tells what a step costs": (
            not study.measured(arm.name)
        ),
    }
    for sentence, holds in checks.items():
        if holds:
            raise ConfigError(f"arms.{arm.name}.match={arm.match}: {sentence}")


def _ordered(arms: dict[str, Arm]) -> dict[str, Arm]:
    """The arms, each after those it needs; otherwise as they stand in the file."""
    found: dict[str, Arm] = {}

    def add(arm: Arm, after: tuple[str, ...]) -> None:
        for key, name in (("from", arm.source), ("match", arm.match)):
            where = f"arms.{arm.name}.{key}={name}"
            if name is not None and name not in arms:
                raise ConfigError(f"{where}: there is no such arm; there are {', '.join(arms)}")
            if name in (*after, arm.name):
                raise ConfigError(f"{where}: goes round in a circle")
            if name is not None and name not in found:
                add(arms[name], (*after, arm.name))
        found[arm.name] = arm

    for arm in arms.values():
        if arm.name not in found:
            add(arm, ())
    return found


def _keys(given: Any, known: set[str], where: str) -> None:
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: must hold keys and values")
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{where}: there is no key {key}; there are {', '.join(sorted(known))}"
            )
