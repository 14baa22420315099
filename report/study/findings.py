"""What a study's arms show against each other: primary comparisons, exploratory ones, claims.

Input: a Study; output: differences with intervals, p-values and verdicts. Primary ones, which the
study named before it began, are tested over training seeds; all others hold for these models only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from configs.primary import FIRST_TRY, MIN_SEEDS, START, Primary, differing
from report.metrics import Record
from report.statistics import OverSeeds, holm, mcnemar, over_seeds, paired_interval
from report.study.points import Point
from report.study.results import Arm, Study

LEVEL = 0.05
COMPUTE = 1.1  # more times the FLOPs than this are not the same compute
DIFFERENCES = (-1.0, 1.0)  # of two shares
ROUNDING = 1e-9  # of sums of shares


class Side(NamedTuple):
    """One side of a comparison: an arm at a checkpoint.

    share: of the questions that both sides answered. flops: mean over seeds, None unknown.
    """

    arm: str
    place: str
    share: float
    flops: float | None

    @property
    def label(self) -> str:
        """'sft_ppo at PPO update 40'."""
        return "the initial model" if self.arm == START else f"{self.arm} at {self.place}"


@dataclass(frozen=True)
class Comparison:
    """One checkpoint against another by one measure on the same questions of one variant.

    A question is a distinct hand or route. interval: of the difference, over questions; it holds
    for these models. seeds: the difference of each training seed. p_questions: McNemar's exact
    test, in which a question counts for the side that did better on it, all seeds together.
    p: what decides: over seeds for a primary comparison (None where they cannot be judged), over
    questions for an exploratory one. p_holm: corrected for all comparisons of its kind.
    """

    first: Side
    second: Side
    variant: str
    measure: str
    primary: bool
    questions: int
    rows: int
    interval: tuple[float, float]
    seeds: OverSeeds
    p_questions: float
    p_holm: float = 1.0

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first.share - self.second.share

    @property
    def p(self) -> float | None:
        """The p-value that decides, before the correction."""
        return self.seeds.p if self.primary else self.p_questions

    @property
    def label(self) -> str:
        """What is compared, exactly."""
        return f"{self.first.label} − {self.second.label}"

    @property
    def compute(self) -> str:
        """A sentence where the two sides did not spend the same, to 10 %; else empty."""
        one, other = self.first.flops, self.second.flops
        if one is None or other is None:
            unknown = self.first if one is None else self.second
            return f"the FLOPs of {unknown.arm} are not known"
        more, less = (self.first, self.second) if one >= other else (self.second, self.first)
        most, least = max(one, other), min(one, other)
        if least == 0:
            return f"{more.arm} spent {most:.1e} FLOPs, {less.arm} none" if most else ""
        if most / least <= COMPUTE:
            return ""
        return f"{more.arm} spent {most / least:.1f} times the FLOPs of {less.arm}"

    @property
    def same_compute(self) -> bool:
        """Whether a verdict can be about the way of training and not about how much of it.

        Against the initial model training itself is the question, which has no such rival.
        """
        return not self.compute or START in (self.first.arm, self.second.arm)

    @property
    def undecided(self) -> str:
        """Why there is nothing to decide; empty where there is."""
        if self.first.share == self.second.share == 0:
            return "nothing to compare: both are 0"
        if not self.primary or self.seeds.p is not None:
            return ""
        if self.seeds.n < MIN_SEEDS:
            seeds = f"{self.seeds.n} training seed{'' if self.seeds.n == 1 else 's'}"
            return f"cannot be judged: {seeds}, a test over seeds needs {MIN_SEEDS}"
        return "cannot be judged: all seeds agree exactly, so their spread says nothing"

    @property
    def verdict(self) -> str:
        """'higher', 'lower', 'not shown', or why it is undecided.

        Needs the corrected p below 0.05 and the interval over questions without 0; a primary one
        also needs the interval over seeds without 0.
        """
        if self.undecided:
            return self.undecided
        intervals = [self.interval]
        if self.primary:
            assert self.seeds.interval is not None
            intervals.append(self.seeds.interval)
        if self.p_holm >= LEVEL or any(low <= 0 <= high for low, high in intervals):
            return "not shown"
        return "higher" if self.difference > 0 else "lower"

    def against(self, expected: str) -> str:
        """The verdict on a sentence that expects 'higher' or 'lower'.

        'holds' is said of primary comparisons at the same compute alone.
        """
        verdict = self.verdict
        if verdict not in ("higher", "lower"):
            return verdict
        if not self.primary:
            word = "as expected" if verdict == expected else "the opposite"
            return f"{word} in these runs: {verdict}"
        if verdict != expected:
            return f"the opposite: {verdict}"
        return "holds" if self.same_compute else f"{verdict}, but not at the same compute"

    def row(self) -> Record:
        """For comparisons.csv."""
        over = self.seeds.interval or (None, None)
        return {
            "kind": "primary" if self.primary else "exploratory",
            "first": self.first.arm,
            "first_at": self.first.place,
            "second": self.second.arm,
            "second_at": self.second.place,
            "variant": self.variant,
            "measure": self.measure,
            "questions": self.questions,
            "rows": self.rows,
            "first_share": self.first.share,
            "second_share": self.second.share,
            "difference": self.difference,
            "low": self.interval[0],
            "high": self.interval[1],
            "seeds": self.seeds.n,
            "seeds_low": over[0],
            "seeds_high": over[1],
            "p_questions": self.p_questions,
            "p_seeds": self.seeds.p,
            "p_holm": self.p_holm,
            "first_flops": self.first.flops,
            "second_flops": self.second.flops,
            "compute": self.compute,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Claim:
    """A sentence of the literature, and the comparisons that bear on it.

    expected: 'higher' or 'lower', what the sentence says of first against second.
    left_out: variants that are another task in one arm than in the other, and why.
    """

    text: str
    expected: str
    comparisons: list[Comparison]
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """A study's comparisons; a claim's are among the primary ones or exploratory.

    waiting: primary comparisons that are not measured, and why: mostly 'not finished'.
    """

    primary: list[Comparison]
    waiting: dict[Primary, str]
    claims: list[Claim]

    @property
    def rows(self) -> list[Record]:
        """For comparisons.csv: the primary ones, then those of claims."""
        named = [{"claim": "primary comparison"} | c.row() for c in self.primary]
        return named + [{"claim": c.text} | x.row() for c in self.claims for x in c.comparisons]


def findings(study: Study) -> Findings:
    """All primary comparisons, and all claims that the study's arms bear on.

    Claims are about the measure of the first primary comparison, or each variant's headline; about
    the first answer where the arms have different numbers of tries.
    Holm's correction is over all primary comparisons that were named, measured or not, and apart
    from that over all exploratory ones.
    """
    compared = {
        p: None if _differing(study, p) else _compare(study, p, primary=True) for p in study.primary
    }
    primary = {p: c for p, c in compared.items() if c is not None}
    corrected = holm([1.0 if c is None or c.p is None else c.p for c in compared.values()])
    decided = {
        p: replace(primary[p], p_holm=q)
        for p, q in zip(compared, corrected, strict=True)
        if p in primary
    }
    measures = {
        v: study.primary[0].measure if study.primary else study.headline(v) for v in study.variants
    }
    drafts: list[Claim] = []
    for text, expected, first, second, variants in _sentences(study):
        claim = Claim(text, expected, [])
        for variant in variants:
            pair = _comparable(study, Primary(first, second, variant, measures[variant]))
            found = decided.get(pair) or _compare(study, pair, primary=False)
            if found is not None and (why := _differing(study, pair)):
                claim.left_out[variant] = why
            elif found is not None:
                claim.comparisons.append(found)
        drafts.append(claim)
    waiting = {p: _why_not(study, p) for p in study.primary if p not in primary}
    return Findings(list(decided.values()), waiting, _corrected(drafts))


def _differing(study: Study, pair: Primary) -> str:
    """Why a measure is not of one task on both sides; empty where it is."""
    other = study.origin(pair.arm) if pair.against == START else pair.against
    ours, theirs = (study.plays(arm, pair.variant) for arm in (pair.arm, other))
    keys = differing(ours, theirs, pair.measure)
    return f"another task on each side: {', '.join(keys)} differ" if keys else ""


def _comparable(study: Study, pair: Primary) -> Primary:
    """The comparison, by the first answer where nothing but the number of tries differs."""
    first = replace(pair, measure=FIRST_TRY)
    return first if _differing(study, pair) and not _differing(study, first) else pair


def _why_not(study: Study, pair: Primary) -> str:
    """Why a primary comparison is not measured."""
    arms = {pair.arm, study.origin(pair.arm) if pair.against == START else pair.against}
    if not {(arm, seed) for arm in arms for seed in study.seeds} <= study.finished:
        return "not finished"
    return _differing(study, pair) or f"never measured: {pair.measure} of both on {pair.variant}"


def _corrected(claims: Iterable[Claim]) -> list[Claim]:
    """Claims that have comparisons, the exploratory ones of all of them corrected together."""
    kept = [claim for claim in claims if claim.comparisons or claim.left_out]
    exploratory = [c for claim in kept for c in claim.comparisons if not c.primary]
    corrected = iter(holm([c.p_questions for c in exploratory]))
    return [
        replace(
            claim,
            comparisons=[
                c if c.primary else replace(c, p_holm=next(corrected)) for c in claim.comparisons
            ],
        )
        for claim in kept
    ]


def _sentences(study: Study) -> Iterator[tuple[str, str, str, str, list[str]]]:
    """(claim, expected, first arm, second arm, variants); START stands for the initial model."""
    inside, outside = study.inside, study.outside
    for sft in study.of_kind("sft"):
        yield f"SFT ({sft.name}) learns the training rule", "higher", sft.name, START, inside
        yield f"SFT ({sft.name}) loses what is new to it", "lower", sft.name, START, outside
    for rl in study.of_kind("rl", "rl_without_sft", "rl_overfit"):
        text = f"RL ({rl.name}) generalises beyond the start"
        yield text, "higher", rl.name, START, outside
        for sft in study.of_kind("sft"):
            if (sft.source, sft.at) == (rl.source, rl.at):
                text = (
                    f"RL ({rl.name}) generalises better than SFT ({sft.name}) from the same model"
                )
                yield text, "higher", rl.name, sft.name, outside
    for rl in study.of_kind("rl"):
        if rl.source:
            text = f"RL ({rl.name}) generalises better than its own SFT"
            yield text, "higher", rl.name, rl.source, outside
            text = f"RL ({rl.name}) improves on its SFT in distribution"
            yield text, "higher", rl.name, rl.source, inside
        for other in study.of_kind("rl_without_sft"):
            text = f"RL without SFT ({other.name}) ends below RL with it ({rl.name})"
            yield text, "lower", other.name, rl.name, study.variants
        for other in study.of_kind("rl_overfit"):
            text = f"RL from an overfitted SFT ({other.name}) ends below {rl.name}"
            yield text, "lower", other.name, rl.name, outside


def _compare(study: Study, pair: Primary, primary: bool) -> Comparison | None:
    """Over the seeds that both arms have finished, on the questions that all of them answered."""
    first, second, variant, measure = pair.arm, pair.against, pair.variant, pair.measure
    both = [
        (one, other)
        for seed in study.seeds
        if (one := _point(study, first, seed, variant, second))
        and (other := _point(study, second, seed, variant, first))
        and one.decoding == other.decoding
    ]
    tallies = [(a.measures.get(measure, {}), b.measures.get(measure, {})) for a, b in both]
    shared = sorted(set.intersection(*({*a} & {*b} for a, b in tallies)) if tallies else set())
    if not shared:
        return None
    counts = [sum(a[q].rows for a, _ in tallies) for q in shared]
    # A question weighs as many rows as the first side has of it, on both sides.
    gains = [sum(a[q].rows * (a[q].mean - b[q].mean) for a, b in tallies) for q in shared]
    by_seed = [
        sum(a[q].rows * (a[q].mean - b[q].mean) for q in shared) / sum(a[q].rows for q in shared)
        for a, b in tallies
    ]
    shares = [
        sum(pair[0][q].rows * pair[side][q].mean for pair in tallies for q in shared) / sum(counts)
        for side in (0, 1)
    ]
    sides = [
        Side(arm, _places(points), share, _flops(points))
        for arm, points, share in zip((first, second), zip(*both, strict=True), shares, strict=True)
    ]
    return Comparison(
        sides[0],
        sides[1],
        variant,
        measure,
        primary,
        len(shared),
        sum(counts),
        paired_interval(gains, counts),
        over_seeds(by_seed, DIFFERENCES),
        mcnemar(sum(g > ROUNDING for g in gains), sum(g < -ROUNDING for g in gains)),
    )


def _places(points: Iterable[Point]) -> str:
    """The checkpoint of all seeds, or each of them where they differ (`match` counts its steps)."""
    return " / ".join(dict.fromkeys(point.place for point in points))


def _flops(points: Iterable[Point]) -> float | None:
    spent = [point.flops for point in points]
    known = [value for value in spent if value is not None]
    return sum(known) / len(known) if len(known) == len(spent) else None


def _point(study: Study, name: str, seed: int, variant: str, rival: str) -> Point | None:
    """An arm's end; where its rival begins with an earlier step of it, that step."""
    if name == START:
        return study.start(rival, seed, variant)
    later: Arm | None = None if rival == START else study.arm(rival)
    if later is not None and later.source == name and later.at is not None:
        steps = study.at(name, seed, variant)
        if at := [p for p in steps if (p.phase, p.step) == ("sft", later.at)]:
            return at[0]
        # Not evaluated there: the rival's first evaluation is of the same model.
        begun = [p for p in study.at(rival, seed, variant) if p.phase == "start"]
        return replace(begun[0], arm=name, phase="sft", step=later.at) if begun else None
    return study.last(name, seed, variant)
