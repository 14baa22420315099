"""A study's report: `STUDY/report.html` for a browser, `STUDY/report/` with PNG and CSV.

Input: a study's folder, complete or not. Every text of the page that a model, an environment or
a person wrote is escaped.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from report.html import document, picture, section, table
from report.page import conversation
from report.statistics import over_seeds, wilson
from report.study import published
from report.study.figures import FIGURES, Drawing, draw
from report.study.findings import Claim, Comparison, claims
from report.study.results import Arm, Point, Study, read_study, table_rows

MORE_STYLE = """
body { max-width: 76rem; } .scroll table { font-size: .92rem; }
.holds { color: var(--good); } .fails { color: var(--bad); } figure { margin: .6rem 0 1.4rem; }
.claims > li { margin: .7rem 0; font-weight: 600; } .claims ul { font-weight: 400; }
figcaption { color: var(--faint); font-size: .9rem; }
"""
SAMPLES = 2  # conversations shown an arm


def write_study_report(folder: str | Path) -> Path:
    """Write the report of a study's folder; tells what there is of an unfinished one.

    Returns:
        The page. Beside it, report/ holds NAME.png and NAME.csv of every figure with data,
        points.csv (one row an evaluation), comparisons.csv and published.csv.

    Raises:
        ConfigError: the folder is no study's (`read_study`).
    """
    folder = Path(folder)
    study, tables = read_study(folder), folder / "report"
    tables.mkdir(exist_ok=True)
    found = claims(study)
    _write_csv(tables / "points.csv", table_rows(study))
    _write_csv(
        tables / "comparisons.csv",
        ({"claim": c.text} | x.row() for c in found for x in c.comparisons),
    )
    _write_csv(tables / "published.csv", (row._asdict() for row in published.TABLE))
    page = folder / "report.html"
    page.write_text(_page(study, found, tables), "utf-8")
    return page


def _write_csv(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    rows = list(rows)
    if rows:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def _page(study: Study, found: list[Claim], tables: Path) -> str:
    size = f"{study.parameters:,} parameters" if study.parameters else ""
    counts = sorted({len(p.outcomes) for p in study.points})
    facts = [
        study.environment,
        study.model,
        size,
        f"{len(study.arms)} arms",
        f"{len(study.seeds)} training seeds",
        f"{' to '.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))} episodes an "
        "evaluation"
        if counts
        else "",
        study.evaluation,
    ]
    steps = _steps(study)
    badge = ("interrupted", "incomplete") if study.missing else ("finished", "complete")
    names = escape("; ".join(study.missing))
    missing = f"<p>Without evaluations as yet: {names}.</p>" if names else ""
    parts = [
        section("What holds, what does not", _findings(study, found)),
        *(section(d.title, _figure(study, d, tables)) for d in FIGURES),
        section("Success at the end of each arm", _ends(study)),
        *([section("Per-step accuracy at the end of each arm", steps)] if steps else []),
        section("Paired comparisons", _comparisons(found)),
        section("Published figures beside ours", _published(study)),
        section("Sample episodes", _samples(study)),
        section("study.yaml", f"<pre>{escape((study.folder / 'study.yaml').read_text())}</pre>"),
    ]
    body = "\n".join([f'<p class="lead">{_model_note(study)}</p>', missing, *parts])
    return document(study.name, "study", badge, facts, body, MORE_STYLE)


def _model_note(study: Study) -> str:
    if study.from_scratch:
        return (
            "The model is tiny and was trained from scratch, not pretrained: what it shows need "
            "not hold of a pretrained one, and it cannot read tokens that it never saw."
        )
    return f"Model: {escape(study.model)}. One model speaks for no other."


def _figure(study: Study, drawing: Drawing, tables: Path) -> str:
    file = tables / f"{drawing.key}.png"
    rows = draw(study, drawing, file)
    if not rows:
        file.unlink(missing_ok=True)  # of an earlier report
        return f'<p class="faint">Not in this study: it needs {escape(drawing.needs)}.</p>'
    _write_csv(file.with_suffix(".csv"), rows)
    return (
        f"<figure>{picture(file, drawing.title)}"
        f"<figcaption>{escape(drawing.note)} n = {len(study.seeds)} training seeds.</figcaption>"
        "</figure>"
    )


def _findings(study: Study, found: list[Claim]) -> str:
    """Each claim with the variants on which it holds, fails or stays open."""
    if not found:
        return '<p class="faint">No two arms are finished that could be compared.</p>'
    items = "\n".join(f"<li>{_finding(claim)}</li>" for claim in found)
    total = sum(len(claim.comparisons) for claim in found)
    note = (
        f"{total} comparisons on the same episodes, p after Holm's correction for all of them. "
        "Said to hold: p below 0.05, the 95 % interval of the difference without 0, and the same "
        "of Student's interval over training seeds. 'In these runs': without the last. 'Not "
        "shown' is no proof that nothing differs."
    )
    return f'<ul class="claims">\n{items}\n</ul>\n<p class="faint">{note}</p>'


def _finding(claim: Claim) -> str:
    parts = []
    for c in claim.comparisons:
        verdict = c.verdict
        if verdict.split()[0] == claim.expected:
            word = "holds" + verdict.removeprefix(claim.expected)
            tone = "holds"
        elif verdict == "not shown":
            word, tone = verdict, "faint"
        else:
            word, tone = f"the opposite: {verdict}", "fails"
        parts.append(
            f'<li><b class="{tone}">{word}</b> on {escape(c.variant)}: <span class="faint">'
            f"{_points(c)}, n = {c.pairs} × {_count(c.seeds.n, 'seed')}, p {escape(_p(c.p_holm))}"
            "</span></li>"
        )
    return f"{escape(claim.text)}<ul>{''.join(parts)}</ul>"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _points(c: Comparison) -> str:
    low, high = (_signed(bound) for bound in c.interval)
    return (
        f"{100 * c.first_share:.1f} against {100 * c.second_share:.1f} %, "
        f"{_signed(c.difference)} points [{low}, {high}]"
    )


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"= {p:.4f}" if p < 0.01 else f"= {p:.2f}"


def _ends(study: Study) -> str:
    head = ["arm", "kind", *(escape(v) for v in study.variants)]
    rows = [["start", "the initial model", *(_cell(study, None, v) for v in study.variants)]]
    for arm in (arm for arm in study.arms if arm.kind != "pretrain"):  # its end is the start
        cells = [_cell(study, arm.name, v) for v in study.variants]
        rows.append([escape(arm.name), arm.kind.replace("_", " "), *cells])
    outside = ", ".join(study.outside) or "none"
    note = (
        "Percent of episodes solved, all seeds together [Wilson's 95 % interval], and the range "
        f"of training seeds. Out of distribution: {outside}."
    )
    return f'{table(head, rows)}\n<p class="faint">{escape(note)}</p>'


def _ends_of(study: Study, arm: str | None, variant: str) -> list[Point]:
    """An arm's (None: the start's) last point of each training seed that has one."""
    return [
        p
        for seed in study.seeds
        if (p := study.last(arm, seed, variant) if arm else study.start(seed, variant))
    ]


def _cell(study: Study, arm: str | None, variant: str) -> str:
    points = _ends_of(study, arm, variant)
    if not points:
        return "–"
    n = sum(len(p.outcomes) for p in points)
    wins = sum(sum(p.outcomes.values()) for p in points)
    low, high = wilson(wins, n)
    seeds = over_seeds([p.success for p in points])
    return (
        f"<b>{100 * wins / n:.1f}</b> "
        f'<span class="faint">[{100 * low:.1f}, {100 * high:.1f}]<br>'
        f"{100 * seeds.low:.1f}–{100 * seeds.high:.1f}, n = {n}</span>"
    )


def _steps(study: Study) -> str:
    """Single steps, the measure of V-IRL's published figures; empty where there are none."""
    if not any(p.accuracy is not None for p in study.points):
        return ""
    arms = [None, *(arm.name for arm in study.arms if arm.kind != "pretrain")]
    rows = [
        [escape(arm or "start"), *(_accuracy(study, arm, v) for v in study.variants)]
        for arm in arms
    ]
    note = (
        "Percent of answers whose action was right, mean over episodes and training seeds, and the "
        "range of training seeds. An episode ends where its graded answers are used up."
    )
    head = ["arm", *(escape(v) for v in study.variants)]
    return f'{table(head, rows)}\n<p class="faint">{note}</p>'


def _accuracy(study: Study, arm: str | None, variant: str) -> str:
    known = [p.accuracy for p in _ends_of(study, arm, variant) if p.accuracy is not None]
    if not known:
        return "–"
    seeds = over_seeds(known)
    spread = f"{100 * seeds.low:.1f}–{100 * seeds.high:.1f}"
    return f'<b>{100 * seeds.mean:.1f}</b> <span class="faint">{spread}</span>'


def _comparisons(found: list[Claim]) -> str:
    rows = [
        [
            escape(f"{c.first} − {c.second}"),
            escape(c.variant),
            f"{c.pairs}",
            _signed(c.difference),
            f'<span class="faint">[{_signed(c.interval[0])}, {_signed(c.interval[1])}]</span>',
            _over(c),
            *(escape(_p(p).removeprefix("= ")) for p in (c.p, c.p_holm)),
            c.verdict,
        ]
        for claim in found
        for c in claim.comparisons
    ]
    head = [
        "arms",
        "variant",
        "pairs",
        "points",
        "95 %, pairs",
        "95 %, seeds",
        "p",
        "p, Holm",
        "first is",
    ]
    note = (
        "Same hands or routes in both arms. p: McNemar's exact test; over several training seeds "
        "a hand counts for the arm that solved it more often. Intervals: a bootstrap of hands, "
        "and Student's t over training seeds."
    )
    return f'{table(head, rows)}\n<p class="faint">{note}</p>' if rows else ""


def _over(c: Comparison) -> str:
    if c.seeds.interval is None:
        return "one seed"
    low, high = c.seeds.interval
    return f'<span class="faint">[{_signed(low)}, {_signed(high)}], n = {c.seeds.n}</span>'


def _published(study: Study) -> str:
    """The paper's rows, then each out-of-distribution variant of this study."""
    rows = [
        [r.task, r.shift, r.measure, published.MODEL, f"{r.start}", f"{r.sft}", f"{r.rl}"]
        for r in published.TABLE
    ]
    size = f", {study.parameters:,} parameters" if study.parameters else ""
    model = escape(f"from scratch{size}" if study.from_scratch else f"{study.model}{size}")
    sft, rl = _opposed(study)
    names = " and ".join(escape(arm.name) for arm in (sft, rl) if arm)
    measures = (
        {"success": _cell, "per-step accuracy": _accuracy} if _steps(study) else {"success": _cell}
    )
    for variant in study.outside:
        for measure, cell in measures.items():
            ours = [cell(study, arm.name, variant) if arm else "–" for arm in (sft, rl)]
            row = [f"<b>this study</b>, {names}", escape(variant), measure, model]
            rows.append([*row, cell(study, None, variant), *ours])
    head = ["task", "change", "measure", "model", "start, %", "SFT, %", "RL, %"]
    note = f"Published: {published.SOURCE}. Models, compute and episodes differ: no ranking."
    return f'{table(head, rows)}\n<p class="faint">{escape(note)}</p>'


def _opposed(study: Study) -> tuple[Arm | None, Arm | None]:
    """SFT and RL to stand beside the published pair: begun from the same model, if there are."""
    sft, rl = study.of_kind("sft"), next(iter(study.of_kind("rl")), None)
    same = [arm for arm in sft if rl and (arm.source, arm.at) == (rl.source, rl.at)]
    return next(iter(same or sft), None), rl


def _samples(study: Study) -> str:
    """The last conversations of each arm's first seed."""
    parts = []
    for arm in study.arms:
        mine = [s for s in study.samples if s["arm"] == arm.name]
        shown = [s for s in mine if s["arm_seed"] == mine[0]["arm_seed"]][-SAMPLES:]
        if shown:
            parts.append(f"<h3>{escape(arm.name)}</h3>")
            parts += [conversation(s, opened=False) for s in shown]
    return "\n".join(parts)
