"""What a study's arms show against each other: paired comparisons and sober sentences.

Input: a Study; output: differences with intervals, p-values and verdicts. A verdict never says
more than its intervals carry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from report.statistics import OverSeeds, holm, mcnemar, over_seeds, paired_bootstrap
from report.study.results import Arm, Point, Study

START = "start"
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """One arm against another on the same episodes of one variant; shares from 0 to 1.

    pairs: hands or routes. interval: of the difference, over pairs. seeds: the difference of
    each training seed. p: McNemar's exact test over pairs; with several training seeds a pair
    counts for the arm that solved it more often. p_holm: corrected for all comparisons.
    """

    first: str
    second: str
    variant: str
    pairs: int
    first_share: float
    second_share: float
    interval: tuple[float, float]
    seeds: OverSeeds
    p: float
    p_holm: float

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first_share - self.second_share

    @property
    def verdict(self) -> str:
        """'higher', 'lower', 'higher in these runs', 'lower in these runs' or 'not shown'.

        The first two need the pairs' test and interval and the interval over seeds; 'in these
        runs' says that new training seeds may well differ.
        """
        low, high = self.interval
        if self.p_holm >= LEVEL or low <= 0 <= high:
            return "not shown"
        word = "higher" if self.difference > 0 else "lower"
        over = self.seeds.interval
        carried = over is not None and not over[0] <= 0 <= over[1]
        return word if carried else f"{word} in these runs"

    def row(self) -> dict[str, Any]:
        """For comparisons.csv."""
        plain = asdict(self) | {"difference": self.difference, "verdict": self.verdict}
        seeds, interval = plain.pop("seeds"), plain.pop("interval")
        plain |= {"low": interval[0], "high": interval[1], "seeds": seeds["n"]}
        over = seeds["interval"] or (None, None)
        return plain | {"seeds_low": over[0], "seeds_high": over[1]}


@dataclass(frozen=True)
class Claim:
    """A sentence of the literature, and the comparisons that bear on it.

    expected: 'higher' or 'lower', what the sentence says of first against second.
    """

    text: str
    expected: str
    comparisons: list[Comparison]


def claims(study: Study) -> list[Claim]:
    """All claims that the study's arms can speak to, corrected together."""
    asked = list(_asked(study))
    drafts = [
        [_compare(study, first, second, variant) for variant in variants]
        for _, _, first, second, variants in asked
    ]
    known = [c for group in drafts for c in group if c is not None]
    corrected = iter(holm([c.p for c in known]))
    found = []
    for (text, expected, *_), group in zip(asked, drafts, strict=True):
        compared = [
            Comparison(**{**c.__dict__, "p_holm": next(corrected)}) for c in group if c is not None
        ]
        if compared:
            found.append(Claim(text, expected, compared))
    return found


def _asked(study: Study) -> Iterator[tuple[str, str, str, str, list[str]]]:
    """(claim, expected, first arm, second arm, variants); START stands for the initial model."""
    inside, outside = study.inside, study.outside
    for sft in study.of_kind("sft"):
        yield f"SFT ({sft.name}) learns the training rule", "higher", sft.name, START, inside
        yield f"SFT ({sft.name}) loses what is new to it", "lower", sft.name, START, outside
    for rl in study.of_kind("rl", "rl_without_sft", "rl_overfit"):
        yield f"RL ({rl.name}) generalises beyond the start", "higher", rl.name, START, outside
        for sft in study.of_kind("sft"):
            if (sft.source, sft.at) == (rl.source, rl.at):
                yield (
                    f"RL ({rl.name}) generalises better than SFT ({sft.name}) from the same model",
                    "higher",
                    rl.name,
                    sft.name,
                    outside,
                )
    for rl in study.of_kind("rl"):
        if rl.source:
            yield (
                f"RL ({rl.name}) generalises better than its own SFT",
                "higher",
                rl.name,
                rl.source,
                outside,
            )
            yield (
                f"RL ({rl.name}) improves on its SFT in distribution",
                "higher",
                rl.name,
                rl.source,
                inside,
            )
        for other in study.of_kind("rl_without_sft"):
            yield (
                f"RL without SFT ({other.name}) ends below RL with it ({rl.name})",
                "lower",
                other.name,
                rl.name,
                study.variants,
            )
        for other in study.of_kind("rl_overfit"):
            yield (
                f"RL from an overfitted SFT ({other.name}) ends below {rl.name}",
                "lower",
                other.name,
                rl.name,
                outside,
            )


def _compare(study: Study, first: str, second: str, variant: str) -> Comparison | None:
    """Over the seeds that both arms have finished, on the episodes that all of them played."""
    both = [
        (one, other)
        for seed in study.seeds
        if (one := _point(study, first, seed, variant, None))
        and (other := _point(study, second, seed, variant, study.arm(first)))
    ]
    shared = set.intersection(*({*a.outcomes} & {*b.outcomes} for a, b in both)) if both else set()
    if not shared:
        return None
    hands = sorted(shared)
    gains = [
        sum(int(a.outcomes[h]) - int(b.outcomes[h]) for a, b in both) / len(both) for h in hands
    ]
    shares = [
        sum(point.outcomes[h] for point in side for h in hands) / len(hands) / len(both)
        for side in zip(*both, strict=True)
    ]
    by_seed = [
        sum(int(a.outcomes[h]) - int(b.outcomes[h]) for h in hands) / len(hands) for a, b in both
    ]
    p = mcnemar(sum(g > 0 for g in gains), sum(g < 0 for g in gains))
    return Comparison(
        first,
        second,
        variant,
        len(hands),
        shares[0],
        shares[1],
        paired_bootstrap(gains),
        over_seeds(by_seed),
        p,
        p,
    )


def _point(study: Study, name: str, seed: int, variant: str, asker: Arm | None) -> Point | None:
    """An arm's end; where an arm begins with an earlier step of it, that step."""
    if name == START:
        return study.start(seed, variant)
    if asker is not None and asker.source == name and asker.at is not None:
        steps = study.at(name, seed, variant)
        return next((p for p in steps if (p.phase, p.step) == ("sft", asker.at)), None)
    return study.last(name, seed, variant)
