"""A study's primary comparisons: the few questions that it names before it begins."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from configs.load import ConfigError
from configs.schema import RunConfig

START = "start"  # stands for the initial model
MEASURES = ("success", "first_try", "recognition", "per_step_accuracy")
MIN_SEEDS = 3  # fewer training seeds have no test over them
MOST = 4  # corrected together: each more makes the others harder to show
VIRL = "cardinal/VIRL-v0"
BUILT_IN = ("cardinal/GeneralPoints-v0", VIRL)
FIRST_TRY, ENV_ID = "first_try", "env.id"
TRIES = "verify_iter"  # graded answers an episode: every measure but FIRST_TRY depends on them
# Settings of rewards and demonstrations: an evaluation asks and grades the same without them.
TRAINING_ALONE = {
    "rewards",
    "penalty_mode",
    "partial_reward",
    "trajectories",
    "corrected_share",
    "formulas",
    "prompt_diversity",
}
NOUNS = {"arm": "arm", "against": "arm", "variant": "variant", "measure": "measure"}


@dataclass(frozen=True)
class Primary:
    """An arm against another arm, or against START, by one measure on one evaluation variant."""

    arm: str
    against: str
    variant: str
    measure: str = "success"

    def plain(self) -> dict[str, str]:
        """As study.yaml holds it."""
        return asdict(self)


def parse_primary(
    given: object, arms: Collection[str], variants: Collection[str]
) -> tuple[Primary, ...]:
    """Check the key `primary` of a study.

    Args:
        given: a list of mappings with `arm`, `against`, `variant` and perhaps `measure`.
        arms: the study's arms.
        variants: the evaluation variants of its arms.

    Raises:
        ConfigError: one sentence with the entry, the value and the known ones.
    """
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) > MOST:
        raise ConfigError(f"primary={given!r}: must be a list of at most {MOST} comparisons")
    known = {
        "arm": tuple(arms),
        "against": (*arms, START),
        "variant": tuple(variants),
        "measure": MEASURES,
    }
    found = []
    for place, entry in enumerate(given):
        where = f"primary[{place}]"
        if not isinstance(entry, dict) or not {"arm", "against", "variant"} <= set(entry):
            raise ConfigError(f"{where}={entry!r}: must name arm, against and variant")
        for key, value in entry.items():
            if key not in NOUNS:
                raise ConfigError(f"{where}: there is no key {key}; there are {', '.join(NOUNS)}")
            if value not in known[key]:
                near = difflib.get_close_matches(str(value), known[key], 1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                names = ", ".join(known[key])
                raise ConfigError(
                    f"{where}.{key}={value}: there is no such {NOUNS[key]}; there are {names}{hint}"
                )
        comparison = Primary(**entry)
        if comparison.arm == comparison.against:
            raise ConfigError(f"{where}: compares {comparison.arm} with itself")
        mirrored = replace(comparison, arm=comparison.against, against=comparison.arm)
        if comparison in found or mirrored in found:
            raise ConfigError(f"{where}: is named twice; the other way round is the same test")
        found.append(comparison)
    return tuple(found)


def evaluated(
    env_id: str, preset: object, settings: Mapping[str, object], variant: Mapping[str, object]
) -> dict[str, object]:
    """What an arm plays as a variant: the settings that it trains with, under the variant's own."""
    own = {"preset": preset} if env_id.rpartition(":")[2] in BUILT_IN else {}  # others take none
    return {ENV_ID: env_id, **own, **settings, **variant}


def differing(
    one: Mapping[str, object], other: Mapping[str, object], measure: str = FIRST_TRY
) -> list[str]:
    """The settings by which a measure is not of the same task in two arms (`evaluated`)."""
    ignored = TRAINING_ALONE | ({TRIES} if measure == FIRST_TRY else set())
    return sorted(k for k in {*one, *other} - ignored if one.get(k) != other.get(k))


def check_primary(
    primary: tuple[Primary, ...],
    seeds: Collection[int],
    runs: Mapping[str, RunConfig],
    origins: Mapping[str, str],
) -> None:
    """Refuse comparisons that can never be decided, or are between different tasks.

    Args:
        primary: what the study names.
        seeds: of training.
        runs: an arm's configuration.
        origins: the arm that evaluates an arm's initial model.

    Raises:
        ConfigError: one sentence with the comparison, what is wrong with it and what would do.
    """
    if primary and len(seeds) < MIN_SEEDS:
        raise ConfigError(
            f"seeds={list(seeds)}: primary comparisons are tested over training seeds and need at "
            f"least {MIN_SEEDS}; add seeds, or leave out primary"
        )
    for place, comparison in enumerate(primary):
        where, other = f"primary[{place}]", comparison.against
        arms = (comparison.arm, origins[comparison.arm] if other == START else other)
        for arm in arms:
            if comparison.variant not in runs[arm].eval.variants:
                raise ConfigError(
                    f"{where}.variant={comparison.variant}: arm {arm} does not evaluate "
                    f"it; it evaluates {', '.join(runs[arm].eval.variants)}"
                )
        _check_measured(where, comparison, [runs[arm] for arm in arms])
        _check_same_task(where, comparison, arms, runs)


def _check_measured(where: str, comparison: Primary, runs: Sequence[RunConfig]) -> None:
    """Refuse a measure that a built-in environment never has on this variant."""
    measure = comparison.measure
    for cfg in runs:
        env_id = cfg.env.id.rpartition(":")[2]
        settings = cfg.env.settings | cfg.eval.variants[comparison.variant]
        if env_id not in BUILT_IN:
            continue
        if measure == "recognition" and settings.get("modality", "language") == "language":
            raise ConfigError(
                f"{where}.measure=recognition: on {comparison.variant} nothing is seen; it needs "
                "modality=vision"
            )
        if measure == "per_step_accuracy" and env_id != VIRL:
            raise ConfigError(
                f"{where}.measure=per_step_accuracy: {cfg.env.id} does not measure it; {VIRL} does"
            )


def _check_same_task(
    where: str, comparison: Primary, arms: tuple[str, str], runs: Mapping[str, RunConfig]
) -> None:
    """Refuse a comparison whose variant is another task in one arm than in the other."""
    variant, measure = comparison.variant, comparison.measure
    one, other = (
        evaluated(cfg.env.id, cfg.preset, cfg.env.settings, cfg.eval.variants[variant])
        for cfg in (runs[arm] for arm in arms)
    )
    for key in differing(one, other, measure):
        hint = f"set eval.variants.{variant}.{key} for both"
        if key == ENV_ID:
            hint = "compare arms of one environment"
        elif key == TRIES:
            hint += f", or compare by {FIRST_TRY}"
        raise ConfigError(
            f"{where}.measure={measure}: on {variant}, arm {arms[0]} plays {key}="
            f"{one.get(key, 'its default')} and {arms[1]} {key}={other.get(key, 'its default')}: "
            f"that is not the same task; {hint}"
        )
