"""The tables of a study's page."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from configs.primary import TRIES
from report.demonstrations_seen import demonstrations_seen
from report.evaluation import FIRST_TRY, MEASURES, SUCCESS, WITHIN, overlap_words
from report.floors import floor_table
from report.html import table
from report.metrics import Record
from report.statistics import over_seeds
from report.study import published
from report.study.findings import Findings
from report.study.points import KS, Point, interval, mean, pass_interval, passes, pooled
from report.study.results import Arm, Study
from report.study.verdicts import bounds, p_value, signed

Cell = Callable[[Study, str, str], str]


def _arms(study: Study) -> list[str]:
    """The rows of a table: the initial model, which a pretraining arm ends with, and the arms."""
    arms = [arm.name for arm in study.arms if arm.kind not in ("pretrain", "start")]
    return [*study.starts, *arms]


def _note(text: str) -> str:
    return f'<p class="faint">{escape(text)}</p>'


def ends(study: Study) -> str:
    """Success of every arm's end on every variant."""
    head = ["arm", "kind", "checkpoint", *(_headed(study, v) for v in study.variants)]
    rows = []
    for name in _arms(study):
        begins = name in study.starts
        kind = "the initial model" if begins else study.arm(name).kind.replace("_", " ")
        cells = [_lead(study, name, v) for v in study.variants]
        rows.append([escape(name), kind, escape(_checkpoint(study, name)), *cells])
    outside = ", ".join(study.outside) or "none"
    decodings = " and ".join(sorted({p.decoding for p in study.points})) or "no"
    several = any(study.headline(v) == FIRST_TRY for v in study.variants)
    first = (
        "Where a question may be answered again the number in bold is success at the first answer, "
        f"for a second one knows that the first was wrong; success {WITHIN} stands below it. "
    )
    note = (
        f"Percent of episodes solved, {decodings} answers, all seeds together [95 % interval over "
        f"distinct {study.questions}], the range of training seeds, and n: episodes of distinct "
        f"{study.questions}. {first * several}Out of distribution: {outside}."
    )
    return table(head, rows) + _note(note) + floor_table(study.floors)


def _headed(study: Study, variant: str) -> str:
    """A variant as a column's head."""
    measure = study.headline(variant)
    first = f'<br><span class="faint">{MEASURES[measure]}</span>' if measure == FIRST_TRY else ""
    return escape(variant) + first


def _lead(study: Study, arm: str, variant: str) -> str:
    """A variant's headline, and success within all tries where that is another number."""
    measure = study.headline(variant)
    cell, within = _share(study, arm, variant, measure), mean(pooled(study.ends(arm, variant)))
    if measure == SUCCESS or within is None:
        return cell
    tries = _tries(study, arm, variant)
    words = WITHIN if tries is None else f"within {tries} tries"
    return f'{cell}<br><span class="faint">{100 * within:.1f} {words}</span>'


def _tries(study: Study, name: str, variant: str) -> object:
    """Graded answers an episode on a variant: arms may differ in them, and so in success."""
    return study.plays(study.starts.get(name, [name])[0], variant).get(TRIES)


def _checkpoint(study: Study, name: str) -> str:
    if name in study.starts:
        return "–"
    places = [p.place for variant in study.variants for p in study.ends(name, variant)]
    return " / ".join(dict.fromkeys(places)) or "not finished"


def _success(study: Study, arm: str, variant: str) -> str:
    return _share(study, arm, variant, "success")


def _share(study: Study, arm: str, variant: str, measure: str) -> str:
    points = [p for p in study.ends(arm, variant) if p.share(measure) is not None]
    if not points:
        return "–"
    tallies = pooled(points, measure)
    share, (low, high) = mean(tallies), interval(tallies)
    assert share is not None
    seeds = over_seeds([s for p in points if (s := p.share(measure)) is not None])
    rows = sum(tally.rows for tally in tallies.values())
    return (
        f"<b>{100 * share:.1f}</b> "
        f'<span class="faint">[{100 * low:.1f}, {100 * high:.1f}]<br>'
        f"{100 * seeds.low:.1f}–{100 * seeds.high:.1f}, n = {rows} of {len(tallies)}</span>"
    )


def decodings(study: Study) -> str:
    """Greedy, sampled and pass@k of every arm's end; empty where no question has two samples."""
    shown = [
        p for p in study.points if p.samples and (p.decoding == "greedy" or len(passes(p)) > 1)
    ]
    if not shown:
        return ""
    head = ["arm", "variant", "greedy, %", "sampled, %", *(f"pass@{k}, %" for k in KS)]
    rows = []
    tries = {(n, v): _tries(study, n, v) for n in _arms(study) for v in study.variants}
    uneven = len(set(tries.values())) > 1
    head[2:2] = ["tries"] * uneven
    for name in _arms(study):
        for variant in study.variants:
            points = study.ends(name, variant)
            columns: list[list[float | None]] = [
                [p.greedy for p in points],
                [p.sampled for p in points],
            ]
            if points:
                cells = [_mean_of(values) for values in columns]
                cells += [_pass_at(points, k) for k in KS]
                own = [escape(str(tries[name, variant] or "default"))] * uneven
                rows.append([escape(name), escape(variant), *own, *cells])
    several = any(study.headline(v) == FIRST_TRY for v in study.variants)
    note = (
        f"{f'Success {WITHIN}; m' if several else 'M'}eans over training seeds. "
        "Greedy: the likeliest answer, to the questions that have samples. Sampled: one answer at "
        "the evaluation's temperature. pass@k: at least one of k sampled answers solves the "
        "question (unbiased, Chen et al. 2021), of the questions that have k; '–' where fewer "
        "than nine in ten have [95 % interval over them], and the range of training seeds."
    )
    return table(head, rows) + _note(note)


def _pass_at(points: list[Point], k: int) -> str:
    shares = [share for p in points if (share := passes(p).get(k)) is not None]
    if len(shares) < len(points):
        return "–"
    low, high = pass_interval(points, k)
    return (
        f'{_mean_of([*shares])} <span class="faint">[{100 * low:.1f}, {100 * high:.1f}]<br>'
        f"{100 * min(shares):.1f}–{100 * max(shares):.1f}</span>"
    )


def _mean_of(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * sum(known) / len(known):.1f}" if known and len(known) == len(values) else "–"


def accuracy(study: Study) -> str:
    """Single steps, the measure of V-IRL's published figures; empty where there are none."""
    if not any(p.share("per_step_accuracy") is not None for p in study.points):
        return ""
    rows = [
        [escape(arm), *(_accuracy(study, arm, v) for v in study.variants)] for arm in _arms(study)
    ]
    note = (
        "Percent of answers whose action was right, mean over episodes and training seeds [95 % "
        "interval over distinct questions], and the range of training seeds. An episode ends where "
        "its graded answers are used up."
    )
    return table(["arm", *(escape(v) for v in study.variants)], rows) + _note(note)


def _accuracy(study: Study, arm: str, variant: str) -> str:
    return _share(study, arm, variant, "per_step_accuracy")


def exposures(study: Study) -> str:
    """Which variants training can have seen, and how often SFT saw a demonstration."""
    configs = {name: config for name, config in study.configs.items() if config}
    variants = [
        [escape(v), overlap_words(p.overlap for p in study.points if p.variant == v)]
        for v in study.variants
    ]
    seen = []
    for arm in study.arms:
        own = demonstrations_seen(configs.get(arm.name, {}))
        if own:
            chain = own + sum(_seen_before(study, arm))
            seen.append([escape(arm.name), f"{own:.2f}", f"{chain:.2f}"])
    parts = [table(["variant", f"its {study.questions}"], variants)] if variants else []
    if seen:
        head = ["arm of SFT", "its own times a demonstration", "with the arms before it"]
        parts.append(table(head, seen))
        parts.append(
            _note(
                "How often SFT saw each demonstration, on average; arms before it count where they "
                "trained on the same demonstrations. Above 1 means seen again: memorising and "
                "repetition cannot be told apart. PPO draws fresh questions."
            )
        )
    return "\n".join(parts)


def _seen_before(study: Study, arm: Arm) -> list[float]:
    """What the arms that an arm begins with saw of the same demonstrations."""
    if arm.source is None:
        return []
    source = study.arm(arm.source)
    mine, theirs = study.configs.get(arm.name) or {}, study.configs.get(source.name) or {}
    same = _data(mine) == _data(theirs)
    seen = demonstrations_seen(theirs, arm.at) if same else None
    return [seen or 0.0, *_seen_before(study, source)]


def _data(config: Record) -> tuple[object, object]:
    sft = config.get("sft") or {}
    return (config.get("env") or {}).get("settings"), sft.get("demonstrations")


def comparisons(found: Findings) -> str:
    """Every comparison once, the primary ones first."""
    every = [*found.primary, *(c for claim in found.claims for c in claim.comparisons)]
    rows = [
        [
            "<b>primary</b>" if c.primary else "exploratory",
            escape(c.label),
            escape(f"{c.measure} on {c.variant}"),
            f"{c.questions}",
            signed(c.difference),
            *(f'<span class="faint">{bounds(i)}</span>' for i in (c.interval, c.seeds.interval)),
            f"{c.seeds.n}",
            "–" if c.p is None else escape(p_value(c.p).removeprefix("= ")),
            "–" if c.p is None else escape(p_value(c.p_holm).removeprefix("= ")),
            escape(c.verdict),
            escape(c.compute),
        ]
        for c in dict.fromkeys(every)
    ]
    head = [
        "kind",
        "first − second",
        "measure",
        "questions",
        "points",
        "95 %, questions",
        "95 %, seeds",
        "seeds",
        "p",
        "p, Holm",
        "first is",
        "compute",
    ]
    note = (
        "The same questions on both sides. p of a primary comparison: Student's t over training "
        "seeds; of an exploratory one: McNemar's exact test over questions, all seeds together. "
        "Holm's correction is over the primary ones and, apart from that, over the exploratory "
        "ones. Intervals: Bonett and Price's, clustered by question; Student's t over seeds."
    )
    return table(head, rows) + _note(note) if rows else ""


def beside_published(study: Study) -> str:
    """Published rows of the same task and change, each followed by this study's; or nothing."""
    sft, rl = _opposed(study)
    if sft is None or rl is None:
        return ""
    size = f", {study.parameters:,} parameters" if study.parameters else ""
    model = escape(f"from scratch{size}" if study.from_scratch else f"{study.model}{size}")
    name = f"<b>this study</b>, {escape(sft.name)} and {escape(rl.name)}"
    cells: dict[str, Cell] = {"success": _success, "per-step accuracy": _accuracy}
    rows = []
    for r in published.TABLE:
        if r.task != published.task(study):
            continue
        ours = [
            [name, escape(v), r.measure, model]
            + [
                cells[r.measure](study, arm, v)
                for arm in (study.initial(rl.name) or "", sft.name, rl.name)
            ]
            for v in study.outside
            if published.shift(study, v) == r.shift
            and study.ends(sft.name, v)
            and study.ends(rl.name, v)
        ]
        if ours:
            numbers = (f"{r.start}", f"{r.sft}", f"{r.rl}")
            rows += [[r.task, r.shift, r.measure, published.MODEL, *numbers], *ours]
    if not rows:
        return ""
    head = ["task", "change", "measure", "model", "start, %", "SFT, %", "RL, %"]
    note = f"Published: {published.SOURCE}. Models, compute and episodes differ: no ranking."
    return table(head, rows) + _note(note)


def _opposed(study: Study) -> tuple[Arm | None, Arm | None]:
    """SFT and RL to compare with the published pair: begun from the same model, if there are."""
    sft, rl = study.of_kind("sft"), next(iter(study.of_kind("rl")), None)
    same = [arm for arm in sft if rl and (arm.source, arm.at) == (rl.source, rl.at)]
    return next(iter(same or sft), None), rl
