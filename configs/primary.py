"""A study's primary comparisons: the few questions that it names before it begins."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace

from configs.load import ConfigError

START = "start"  # stands for the initial model
MEASURES = ("success", "first_try", "recognition", "per_step_accuracy")
MIN_SEEDS = 3  # fewer training seeds have no test over them
MOST = 4  # corrected together: each more makes the others harder to show
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
