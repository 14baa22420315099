"""What an evaluation's record says: its headline, its questions, what training can ask of them.

Input: `eval` records, rows of outcomes for intervals that records lack, a configuration. Output:
a Headline, and words for pages. Records of older runs lead with success and know no overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from report.metrics import Record
from report.statistics import summarise

SUCCESS, FIRST_TRY = "success", "first_try"
WITHIN = "within all tries"
MEASURES = {SUCCESS: "success", FIRST_TRY: "success at the first answer"}
OVERLAPS = {
    "none": "held out of this training",
    "some": "some of it can have been trained on",
    "all": "all of it can have been trained on",
    "unknown": "not known",
}
QUESTIONS = {"cardinal/GeneralPoints-v0": "hands", "cardinal/VIRL-v0": "routes"}


class Headline(NamedTuple):
    """The measure that a table leads with, of the greedy answers where there are any.

    measure: SUCCESS, or FIRST_TRY where a question may be answered again.
    share: from 0 to 1; None where no episode was played to its end.
    within: success within all tries; equal to share where that is the measure.
    interval: 95 % of share; None where neither record nor outcomes say it.
    n, questions: episodes, and how many of them ask something different; None not recorded.
    greedy: whether the answers were greedy.
    """

    measure: str
    share: float | None
    within: float | None
    interval: tuple[float, float] | None
    n: int | None
    questions: int | None
    greedy: bool

    @property
    def several(self) -> bool:
        """Whether success within all tries is another number."""
        return self.measure == FIRST_TRY


def headline(record: Record) -> Headline:
    """What a record leads with."""
    shown = record.get("greedy") or record
    within = shown.get("success")
    measure, share, interval = SUCCESS, within, shown.get("interval")
    if record.get("headline") == FIRST_TRY:
        measure, interval = FIRST_TRY, record.get("first_try_interval")
        share = shown.get("first_try", record.get("first_try"))
    bounds = (float(interval[0]), float(interval[1])) if interval else None
    counts = shown.get("n"), shown.get("questions")
    return Headline(measure, share, within, bounds, *counts, bool(record.get("greedy")))


def with_intervals(records: list[Record], outcomes: Callable[[], Iterable[Record]]) -> list[Record]:
    """Records, of which those that lead with the first answer get its interval.

    outcomes: one row per episode, read only where an interval is missing.
    """
    wanted = {_place(r) for r in records if _lacks_interval(r)}
    played: dict[tuple[object, ...], list[Record]] = {place: [] for place in wanted}
    for row in outcomes() if wanted else ():
        greedy = row.get("decoding", "greedy") == "greedy" and row.get("end") != "failed"
        if greedy and row.get(FIRST_TRY) is not None and _place(row) in played:
            played[_place(row)].append(row)
    return [
        r | {"first_try_interval": _interval(played[_place(r)])}
        if _lacks_interval(r) and played[_place(r)]
        else r
        for r in records
    ]


def _lacks_interval(record: Record) -> bool:
    leads = record.get("kind", "eval") == "eval" and record.get("headline") == FIRST_TRY
    return leads and not record.get("first_try_interval")


def _place(record: Record) -> tuple[object, ...]:
    """Which evaluation a record or a row belongs to."""
    steps = record.get("update") or 0, record.get("step") or 0
    return record.get("stage"), record.get("variant"), *steps


def _interval(rows: list[Record]) -> list[float]:
    questions = [str(row.get("question") or row.get("seed")) for row in rows]
    interval: list[float] = summarise([row[FIRST_TRY] for row in rows], questions)["interval"]
    return interval


def overlap_words(overlaps: Iterable[str | None]) -> str:
    """What can have been trained on, as several evaluations of a variant say: the most of them."""
    said = {overlap if overlap in OVERLAPS else "unknown" for overlap in overlaps}
    widest = next((name for name in ("all", "some", "unknown", "none") if name in said), "unknown")
    return OVERLAPS[widest]


def questions_name(config: Record) -> str:
    """What the questions of a run's environment are: hands, routes, or questions."""
    env_id = str((config.get("env") or {}).get("id", "")).rpartition(":")[2]
    return QUESTIONS.get(env_id, "questions")


def episodes_of(shown: Headline, questions: str) -> str:
    """'1,000 of 230 distinct hands', or the number of episodes alone."""
    n = "–" if shown.n is None else f"{shown.n:,}"
    return n if shown.questions is None else f"{n} of {shown.questions:,} distinct {questions}"
