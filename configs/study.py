"""A study's YAML in, its arms with the configuration of each run out, or one sentence why not.

An arm is a base configuration with other keys, perhaps begun from another arm's checkpoint; a
sweep is several arms. Nothing here starts a run.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from configs.load import ConfigError, load
from configs.schema import RunConfig

FOLDER = Path(__file__).parent / "studies"
KEYS = {"base", "root", "set", "seeds", "arms"}
PRETRAIN = "pretrain"  # arms of such names make the initial model that a tiny one lacks
ARM_KEYS = {"from", "at", "set", "sweep"}


@dataclass(frozen=True)
class Arm:
    """One arm.

    source: the arm whose checkpoint it begins from; None is the base's own model.
    at: SFT step of that checkpoint; None is the source's last.
    overrides: `key=value` above the study's.
    """

    name: str
    source: str | None = None
    at: int | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyConfig:
    """A checked study; `arms` stand in an order in which each comes after its source."""

    name: str
    base: str
    root: str = "runs"
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    arms: dict[str, Arm] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where runs and results go: root/name, absolute."""
        return (Path(self.root) / self.name).resolve()

    def run(self, arm: str, seed: int) -> RunConfig:
        """The configuration of an arm's run, whose folder is folder/arm/seedK."""
        found, above = self.arms[arm], []
        if found.source:
            above = [f"model.path={json.dumps(str(self.checkpoint(found, seed)))}"]
            if (origin := self.origin(arm)) != arm:
                start = self.folder / origin / f"seed{seed}"
                above.append(f"eval.start={json.dumps(str(start))}")
        place = [f"seed={seed}", f"name=seed{seed}",
                 f"cluster.root={json.dumps(str(self.folder / arm))}"]  # fmt: skip
        return load(self.base, [*self.overrides, *found.overrides, *above, *place])

    def origin(self, arm: str) -> str:
        """The arm at whose beginning stands the initial model of this one: after pretraining."""
        source = self.arms[arm].source
        return arm if source is None or source.startswith(PRETRAIN) else self.origin(source)

    def checkpoint(self, arm: Arm, seed: int) -> Path:
        """The model folder that a run of an arm with a source begins from.

        Raises:
            ConfigError: the source keeps no checkpoint of step `at`.
        """
        assert arm.source is not None
        source = self.run(arm.source, seed)
        stage = "ppo" if source.ppo.updates else "sft"
        if arm.at is not None:
            kept = [*source.sft.keep, source.sft.steps]
            if arm.at not in kept or arm.at == 0:
                raise ConfigError(
                    f"arms.{arm.name}.at={arm.at}: arm {arm.source} keeps SFT steps {kept}; "
                    "sft.keep adds one"
                )
            stage = "sft" if arm.at == source.sft.steps else f"sft-{arm.at}"
        return self.folder / arm.source / f"seed{seed}" / "checkpoints" / stage


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
        except ConfigError as error:
            text = str(error)
            raise ConfigError(
                text if text.startswith("arms.") else f"arms.{name}: {text}"
            ) from error
    return study


def _arms(name: str, given: Any) -> list[Arm]:
    """An arm, or those of its sweep: one for each combination of values."""
    where = f"arms.{name}"
    if Path(name).name != name or name in ("", ".", ".."):
        raise ConfigError(f"{where}: must be a plain folder name")
    _keys(given, ARM_KEYS, where)
    sweep = given.get("sweep") or {}
    if not isinstance(sweep, dict) or not all(isinstance(v, list) and v for v in sweep.values()):
        raise ConfigError(f"{where}.sweep={sweep!r}: must hold keys and lists of values")
    source, at = given.get("from"), given.get("at")
    if at is not None and (type(at) is not int or source is None):
        raise ConfigError(f"{where}.at={at!r}: must be an SFT step of the arm that from names")
    pairs = _pairs(given.get("set"), f"{where}.set")
    found = []
    for values in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, values, strict=True))
        suffix = "".join(f"_{key.split('.')[-1]}-{value}" for key, value in chosen.items())
        arm = Arm(name + suffix, source, at, (*pairs, *_pairs(chosen, f"{where}.sweep")))
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


def _ordered(arms: dict[str, Arm]) -> dict[str, Arm]:
    """The arms, each after its source; otherwise as they stand in the file."""
    found: dict[str, Arm] = {}
    for arm in arms.values():
        chain = [arm]
        while (source := chain[-1].source) is not None and source not in found:
            if source not in arms:
                raise ConfigError(
                    f"arms.{chain[-1].name}.from={source}: there is no such arm; there are "
                    f"{', '.join(arms)}"
                )
            if arms[source] in chain:
                raise ConfigError(f"arms.{arm.name}.from={arm.source}: goes round in a circle")
            chain.append(arms[source])
        found.update((a.name, a) for a in reversed(chain))
    return found


def _keys(given: Any, known: set[str], where: str) -> None:
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: must hold keys and values")
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{where}: there is no key {key}; there are {', '.join(sorted(known))}"
            )
