"""A study's report: `STUDY/report.html` for a browser, `STUDY/report/` with PNG and CSV.

Input: a study's folder, complete or not. Every text of the page that a model, an environment or
a person wrote is escaped.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from html import escape
from pathlib import Path

from report.html import document, picture, section
from report.metrics import Record
from report.page import conversation
from report.study import published, tables, verdicts
from report.study.figures import FIGURES, Drawing, draw, played
from report.study.findings import Findings, findings
from report.study.results import Study, read_study, table_rows

MORE_STYLE = """
body { max-width: 76rem; } .scroll table { font-size: .92rem; }
.holds { color: var(--good); } .fails { color: var(--bad); } figure { margin: .6rem 0 1.4rem; }
.claims > li { margin: .7rem 0; font-weight: 600; } .claims ul { font-weight: 400; }
figcaption { color: var(--faint); font-size: .9rem; }
"""
SAMPLES = 2  # conversations shown an arm


def write_study_report(folder: str | Path) -> Path:
    """Write the report of a study's folder; of an unfinished one it shows what there is.

    Returns:
        The page. Beside it, report/ holds NAME.png and NAME.csv of every figure with data,
        points.csv (one row per evaluation), comparisons.csv and published.csv.

    Raises:
        ConfigError: the folder is no study's (`read_study`).
    """
    folder = Path(folder)
    study, place = read_study(folder), folder / "report"
    place.mkdir(exist_ok=True)
    found = findings(study)
    _write_csv(place / "points.csv", table_rows(study))
    _write_csv(place / "comparisons.csv", found.rows)
    _write_csv(place / "published.csv", (row._asdict() for row in published.TABLE))
    page = folder / "report.html"
    page.write_text(_page(study, found, place), "utf-8")
    return page


def _write_csv(file: Path, rows: Iterable[Record]) -> None:
    rows = list(rows)
    if not rows:
        file.unlink(missing_ok=True)  # of an earlier report
        return
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _page(study: Study, found: Findings, place: Path) -> str:
    size = f"{study.parameters:,} parameters" if study.parameters else ""
    facts = [
        study.environment,
        study.model,
        size,
        f"{len(study.arms)} arms",
        study.evaluation,
    ]
    badge = ("interrupted", "incomplete") if study.missing else ("finished", "complete")
    names = escape("; ".join(study.missing))
    text = escape((study.folder / "study.yaml").read_text())
    parts = [
        f'<p class="lead">{_model_note(study)}</p>',
        f"<p>{escape(played(study))}</p>",
        f"<p>Not finished: {names}. They stand in curves and in no comparison.</p>" * bool(names),
        *(
            f'<p class="failed">{escape(f"Left out: {n}. {why}")}</p>'
            for n, why in study.damaged.items()
        ),
        section("Primary comparisons", verdicts.primary(study, found)),
        section("What the literature says, and what these runs show", verdicts.claims(found)),
        *(section(d.title, _figure(study, d, place)) for d in FIGURES),
        section("Success at the end of each arm", tables.ends(study)),
        section("Greedy, sampled and pass@k", tables.decodings(study)),
        section("Per-step accuracy at the end of each arm", tables.accuracy(study)),
        section("What training can have seen", tables.exposures(study)),
        section("All comparisons", tables.comparisons(found)),
        section("Published figures beside ours", tables.beside_published(study)),
        section("Sample episodes", _samples(study)),
        section("study.yaml", f"<pre>{text}</pre>"),
    ]
    return document(study.name, "study", badge, facts, "\n".join(filter(None, parts)), MORE_STYLE)


def _model_note(study: Study) -> str:
    if study.from_scratch:
        return (
            "The model is tiny and was trained from scratch, not pretrained: what it shows need "
            "not hold of a pretrained one, and it cannot read tokens that it never saw."
        )
    return f"Model: {escape(study.model)}. Another model may behave otherwise."


def _figure(study: Study, drawing: Drawing, place: Path) -> str:
    file = place / f"{drawing.key}.png"
    rows = draw(study, drawing, file)
    _write_csv(file.with_suffix(".csv"), rows)
    if not rows:
        file.unlink(missing_ok=True)
        return f'<p class="faint">Not in this study: it needs {escape(drawing.needs)}.</p>'
    caption = escape(f"{drawing.note} {played(study)}")
    return f"<figure>{picture(file, drawing.title)}<figcaption>{caption}</figcaption></figure>"


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
