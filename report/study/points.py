"""One evaluation of a study's run: what was solved, question by question.

Input: a run folder's outcomes.jsonl and metrics.jsonl; output: a Point for each phase, step and
variant that was evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from configs.load import ConfigError
from configs.primary import MEASURES
from report.evaluation import SUCCESS
from report.metrics import OUTCOMES, Record, read, read_lines
from report.statistics import clustered, over_questions, pass_at, passes_at
from report.study.compute import Spent, along

UNKNOWN = Spent(sft_flops=math.nan, formula_flops=math.nan)
FIELDS = ("stage", "variant", "seed", "success")
ORDER = {"start": 0, "sft": 1, "ppo": 2}
KS = (1, 4, 16)  # of pass@k


class Tally(NamedTuple):
    """The rows of one question: their number and the sum of a measure from 0 to 1."""

    total: float
    rows: int

    @property
    def mean(self) -> float:
        """Of the measure."""
        return self.total / self.rows


Tallies = Mapping[str, Tally]  # question to its tally
Place = tuple[str, int, str]  # phase, step and variant of an evaluation


class Played(NamedTuple):
    """What an evaluation played: `decoding`, `measures` and `samples` of a Point."""

    decoding: str
    measures: Mapping[str, Tallies]
    samples: Tallies


@dataclass(frozen=True)
class Point:
    """An arm and training seed, at a step of a phase, on one variant.

    decoding: greedy, or sampled where nothing was played greedily.
    measures: each of MEASURES that the environment has, by question, of that decoding.
    samples: success of sampled answers by question; empty where all was greedy.
    flops: spent since the initial model, a pretrained one's own cost left out; None unknown.
    flops_formula: by the paper's formula. kl: to the initial model, nats per token.
    headline: the measure that its record leads with. overlap: which of its questions training
    can ask; "unknown" in older records.
    """

    arm: str
    seed: int
    phase: str
    step: int
    variant: str
    decoding: str
    measures: Mapping[str, Tallies]
    samples: Tallies
    flops: float | None
    flops_formula: float | None
    kl: float | None
    headline: str = SUCCESS
    overlap: str = "unknown"

    @property
    def success(self) -> float:
        """The share of episodes solved, 0 to 1."""
        found = self.share("success")
        assert found is not None
        return found

    def share(self, measure: str) -> float | None:
        """Mean of a measure over rows; None where the environment has no such measure."""
        return mean(self.measures.get(measure, {}))

    @property
    def greedy(self) -> float | None:
        """Success of greedy answers, where there are samples on their questions, weighed as they.

        None where nothing was played greedily.
        """
        if self.decoding != "greedy" or not self.samples:
            return self.success if self.decoding == "greedy" else None
        own = self.measures["success"]
        return mean(
            {q: Tally(own[q].mean * t.rows, t.rows) for q, t in self.samples.items() if q in own}
        )

    @property
    def sampled(self) -> float | None:
        """The share of sampled answers that solve; None where all was greedy."""
        return mean(self.samples)

    @property
    def rows(self) -> int:
        """Episodes played."""
        return sum(tally.rows for tally in self.measures["success"].values())

    @property
    def place(self) -> str:
        """Which checkpoint this is: 'start', 'SFT step 250' or 'PPO update 40'."""
        return {"sft": f"SFT step {self.step}", "ppo": f"PPO update {self.step}"}.get(
            self.phase, self.phase
        )


def mean(tallies: Tallies) -> float | None:
    """Over rows; None without any."""
    rows = sum(tally.rows for tally in tallies.values())
    return math.fsum(tally.total for tally in tallies.values()) / rows if rows else None


def interval(tallies: Tallies) -> tuple[float, float]:
    """95 % interval of the mean, rows clustered by question."""
    return clustered([t.total for t in tallies.values()], [t.rows for t in tallies.values()])


def pooled(points: Iterable[Point], measure: str = "success") -> dict[str, Tally]:
    """Tallies of several training seeds together: a question that many answered is one cluster."""
    found: dict[str, Tally] = {}
    for point in points:
        for question, tally in point.measures.get(measure, {}).items():
            known = found.get(question, Tally(0.0, 0))
            found[question] = Tally(known.total + tally.total, known.rows + tally.rows)
    return found


def passes(point: Point) -> dict[int, float]:
    """pass@k by k; see `report.statistics.passes_at`."""
    tallies = [(tally.rows, round(tally.total)) for tally in point.samples.values()]
    return {k: found.share for k, found in passes_at(tallies, KS).items()}


def pass_interval(points: Sequence[Point], k: int) -> tuple[float, float]:
    """95 % interval of pass@k over questions, each with its mean over these training seeds."""
    shares: dict[str, list[float]] = {}
    for point in points:
        for question, tally in point.samples.items():
            if tally.rows >= k:
                share = pass_at(tally.rows, round(tally.total), k)
                shares.setdefault(question, []).append(share)
    rows = sum(max(tally.rows for tally in point.samples.values()) for point in points)
    return over_questions([math.fsum(each) / len(each) for each in shares.values()], rows)


def read_points(
    run: Path, arm: str, seed: int, earlier: Spent, temperature: float = 1.0
) -> list[Point]:
    """A run's evaluations, in the order of phases and steps; failed episodes are left out.

    Args:
        run: the run folder.
        arm: whose run it is.
        seed: the training seed.
        earlier: what had been spent on the model that the run began with.
        temperature: of its evaluations, for rows that do not say their decoding.

    Raises:
        ConfigError: a row of outcomes is missing a part.
    """
    known, points = _evaluations(run), []
    for (phase, step, variant), played in read_played(run, temperature).items():
        record, own = known.get((phase, step, variant), ({}, UNKNOWN))
        spent = earlier + own
        costs = _known(spent.flops), _known(spent.formula_flops), record.get("kl_start")
        said = record.get("headline", SUCCESS), record.get("overlap", "unknown")
        points.append(Point(arm, seed, phase, step, variant, *played, *costs, *said))
    return points


def read_played(run: Path, temperature: float = 1.0) -> dict[Place, Played]:
    """What each evaluation of a run played, as `read_points` has it, in the same order.

    Raises:
        ConfigError: a row of outcomes is missing a part.
    """
    last = _last_steps(read(run))
    groups: dict[Place, list[Record]] = {}
    for row in read_lines(run / OUTCOMES):
        if row.get("end") == "failed":
            continue
        for field in FIELDS:
            if field not in row:
                raise ConfigError(f"{run / OUTCOMES}: a row has no {field}: {row}")
        groups.setdefault((row["stage"], _step(row, last), row["variant"]), []).append(row)
    default = "sampled" if temperature > 0 else "greedy"
    places = sorted(groups, key=lambda k: (ORDER.get(k[0], 3), k[1]))
    return {place: _played(groups[place], default) for place in places}


def _played(rows: list[Record], default: str) -> Played:
    """Decoding, measures and samples of one evaluation's rows."""
    by_decoding: dict[str, list[Record]] = {}
    for row in rows:
        by_decoding.setdefault(row.get("decoding") or default, []).append(row)
    decoding = "greedy" if "greedy" in by_decoding else "sampled"
    mine = by_decoding[decoding]
    measures = {measure: _tallies(mine, measure) for measure in MEASURES}
    samples = _tallies(by_decoding.get("sampled", []), "success")
    return Played(decoding, {name: found for name, found in measures.items() if found}, samples)


def _tallies(rows: list[Record], measure: str) -> dict[str, Tally]:
    """By question; rows that do not name it are one question an evaluation seed."""
    found: dict[str, Tally] = {}
    for row in rows:
        value = row.get(measure)
        if value is None or not math.isfinite(value):
            continue
        value = float(value > 0) if measure == "success" else min(max(float(value), 0.0), 1.0)
        question = str(row["seed"] if row.get("question") is None else row["question"])
        known = found.get(question, Tally(0.0, 0))
        found[question] = Tally(known.total + value, known.rows + 1)
    return found


def _step(row: Record, last: dict[str, int]) -> int:
    """Where in its phase an evaluation was; the one at the end says 0."""
    step = row.get("step" if row["stage"] == "sft" else "update") or 0
    return int(step) or last.get(row["stage"], 0)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _last_steps(records: list[Record]) -> dict[str, int]:
    """The last step of each phase."""
    return {
        "sft": max((r["step"] for r in records if r["kind"] == "sft"), default=0),
        "ppo": max((r["update"] for r in records if r["kind"] == "ppo"), default=0),
    }


def _evaluations(run: Path) -> dict[Place, tuple[Record, Spent]]:
    """Records of evaluations, with what had been spent by then."""
    records = list(along(run))
    last = _last_steps([record for record, _ in records])
    return {
        (r["stage"], _step(r, last), r["variant"]): (r, spent)
        for r, spent in records
        if r["kind"] == "eval"
    }
