"""What a run leaves to read: `summary.json`, `report.png` and `report.html`.

Input: a run folder, complete or not. Every text of the page that a model or an environment
wrote is escaped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from report import plots
from report.evaluation import MEASURES, WITHIN, Headline, episodes_of, headline, overlap_words
from report.floors import floor_table
from report.html import document, picture, section, table
from report.metrics import Record, episodes
from report.statistics import apart
from report.summary import PARITY, read_evaluated, summarise_run

SUMMARY = "summary.json"
DECODINGS = ("greedy", "sampled", "pass_at")  # fields of an evaluation's record


def write_report(folder: str | Path) -> Record:
    """Write the three files of a run folder; returns the summary.

    Works for a run that is still going on or was interrupted: the files say what there is.
    """
    folder = Path(folder)
    records, summary = read_evaluated(folder), summarise_run(folder)
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    plots.draw(records, summary, folder / "report.png")
    (folder / "report.html").write_text(_page(folder, records, summary), "utf-8")
    return summary


def _page(folder: Path, records: list[Record], summary: Record) -> str:
    config = folder / "config.yaml"
    begin = time.strftime("%Y-%m-%d %H:%M", time.gmtime(records[0]["time"])) if records else "–"
    size = summary["model"]["parameters"]
    facts = [
        f"begun {begin} UTC",
        f"{summary['elapsed_s']:,.0f} s",
        f"seed {summary['seed']}",
        f"{size:,} parameters" if size else "",
        _demonstrations(summary),
    ]
    sections = [
        section("Success", _successes(summary["stages"], summary["questions"])),
        section("Floors", floor_table({"": summary["floors"]})),
        section("Other measures", _measures(summary["stages"])),
        '<div class="columns">',
        section("Time", _times(summary)),
        section("Speed", _speeds(summary)),
        section("Engine against learner", _proofs(summary, records)),
        "</div>",
        section("Incidents", _incidents(summary)),
        section("Sample episodes", _conversations(episodes(folder))),
        section("Configuration", _configuration(config)),
    ]
    drawn = picture(folder / "report.png", "Success, loss and reward, and success by variant")
    cause = f'<p class="failed">{escape(summary["cause"])}</p>' if summary["cause"] else ""
    body = "\n".join([cause, _lead(summary["stages"]), f"<p>{drawn}</p>", *sections])
    badge = (summary["status"], summary["status"])
    return document(str(summary["name"]), "report", badge, facts, body)


def _demonstrations(summary: Record) -> str:
    if (seen := summary["sft"]) is None:
        return ""
    times = round(float(seen["epoch"]), 2)
    dropped = int(seen.get("dropped", 0))
    over = f", {dropped:,} longer than sft.max_tokens dropped" if dropped else ""
    return f"each of {int(seen['demonstrations']):,} demonstrations seen {times:g} times{over}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _interval(interval: Sequence[float] | None) -> str:
    if interval is None:
        return ""
    low, high = (_percent(bound) for bound in interval)
    return f'<span class="faint">[{low}, {high}]</span>'


def _variants(stages: dict[str, dict[str, Record]]) -> list[str]:
    return list(dict.fromkeys(variant for stage in stages.values() for variant in stage))


def _lead(stages: dict[str, dict[str, Record]]) -> str:
    """The run in one sentence: its first variant through the stages."""
    variants = _variants(stages)
    if not variants:
        return '<p class="lead">No evaluation was finished.</p>'
    variant = variants[0]
    passed = {
        stage: headline(found[variant]) for stage, found in stages.items() if variant in found
    }
    names = {stage: plots.stage_name(stage, {"": stages[stage][variant]}) for stage in passed}
    steps = ", ".join(
        f'<b class="{stage}">{_percent(shown.share)} %</b> {names[stage]}{_within(shown)}'
        for stage, shown in passed.items()
    )
    measures = dict.fromkeys(MEASURES[shown.measure] for shown in passed.values())
    what = " or ".join(measures).capitalize()
    greedy = ", greedy answers" if any(shown.greedy for shown in passed.values()) else ""
    verdict = f" {_overlap(passed['sft'], passed['ppo'])}" if {"sft", "ppo"} <= {*passed} else ""
    on = f"<b>{escape(variant)}</b>{greedy}"
    return f'<p class="lead">{what} on {on}: {steps}.{verdict}</p>'


def _within(shown: Headline) -> str:
    """' (50.0 % within all tries)' where that is another number."""
    return f" ({_percent(shown.within)} % {WITHIN})" if shown.several else ""


def _overlap(sft: Headline, ppo: Headline) -> str:
    """What the intervals of two stages say of each other."""
    if sft.share == ppo.share == 0:
        return "SFT and PPO solve nothing: there is nothing to compare."
    if sft.interval is None or ppo.interval is None:
        return ""
    word = "do not overlap" if apart(sft.interval, ppo.interval) else "overlap"
    return f"The 95 % intervals of SFT and PPO {word}."


def _successes(stages: dict[str, dict[str, Record]], questions: str) -> str:
    if not stages:
        return ""
    every = [r for found in stages.values() for r in found.values()]
    reads = any(_recognition(r) is not None for r in every)
    several = any(headline(r).several for r in every)
    head = ["variant", "n"] + ["the number in bold"] * several
    for stage, found in stages.items():
        name = plots.stage_name(stage, found)
        head += [f'<span class="{stage}">{name}, %</span>', "" if several else "first try, %"]
        head += ["recognition, %"] * reads
    rows = []
    for variant in _variants(stages):
        known = [found[variant] for found in stages.values() if variant in found]
        shown = [headline(r) for r in known]
        counts = dict.fromkeys(episodes_of(one, questions) for one in shown)
        measures = dict.fromkeys(MEASURES[one.measure] for one in shown)
        row = [escape(variant), " / ".join(counts)] + [" / ".join(measures)] * several
        for found in stages.values():
            row += _success_cells(found.get(variant), several)
            row += [_percent(_recognition(found.get(variant)))] * reads
        rows.append([*row, overlap_words(r.get("overlap") for r in known)])
    head.append(f"its {questions}")
    note = f'<p class="faint">{_success_note(every, questions, reads)}</p>'
    return f"{table(head, rows)}\n{note}{_decodings(stages)}"


def _success_note(records: list[Record], questions: str, reads: bool) -> str:
    """What the table of successes says, in words."""
    shown = [headline(r) for r in records]
    note = "Greedy answers: success" if any(one.greedy for one in shown) else "Success"
    if any(one.several for one in shown):
        note += (
            " at the first answer [95 % interval] where a question may be answered again, for a "
            f"second answer knows that the first was wrong; beside it, success {WITHIN}."
        )
    else:
        note += " within the answer budget [95 % interval], and at the first answer."
    if any(one.questions is not None for one in shown):
        note += f" n: episodes of distinct {questions}, over which intervals are."
    return note + " Recognition: what was read right (cards, landmarks)." * reads


def _success_cells(record: Record | None, named: bool) -> list[str]:
    """A stage's headline with its interval, and the other of first answer and all tries."""
    if record is None:
        return ["–", "–"]
    shown = headline(record)
    lead = f"<b>{_percent(shown.share)}</b> {_interval(shown.interval)}"
    if shown.several:
        return [lead, f'{_percent(shown.within)} <span class="faint">{WITHIN}</span>']
    first = (record.get("greedy") or {}).get("first_try", record.get("first_try"))
    return [lead, _percent(first) + ' <span class="faint">first try</span>' * named]


def _decodings(stages: dict[str, dict[str, Record]]) -> str:
    """Greedy, sampled and pass@k, where evaluations have them."""
    records = [
        (variant, stage, found[variant])
        for variant in _variants(stages)
        for stage, found in stages.items()
        if variant in found and any(found[variant].get(key) for key in DECODINGS)
    ]
    if not records:
        return ""
    ks = sorted({int(k) for _, _, r in records for k in r.get("pass_at") or {}})
    rows = []
    for variant, stage, r in records:
        greedy, sampled, _ = (r.get(key) or {} for key in DECODINGS)
        name = plots.stage_name(stage, {"": r})
        row = [escape(variant), f'<span class="{stage}">{name}</span>']
        row += [
            f"{_percent(d.get('success'))} {_interval(d.get('interval'))} {_count(d)}"
            for d in (greedy, sampled)
        ]
        rows.append([*row, *(_pass_at(r, str(k)) for k in ks)])
    head = ["variant", "stage", "greedy, %", "sampled, %", *(f"pass@{k}, %" for k in ks)]
    tries = f"; here {WITHIN}" if any(headline(r).several for _, _, r in records) else ""
    note = (
        f"Greedy: the likeliest answer, which success above is about{tries}. Sampled: one answer "
        "at the evaluation's temperature. pass@k: at least one of k sampled answers solves the "
        "question (unbiased, Chen et al. 2021). n: answers to distinct questions; those of "
        "samples and pass@k are the first ones alone."
    )
    return f'{table(head, rows)}\n<p class="faint">{note}</p>'


def _pass_at(record: Record, k: str) -> str:
    """pass@k, its interval, and the number of its questions where some have fewer samples."""
    interval = (record.get("pass_at_interval") or {}).get(k)  # none in older records
    shown = f"{_percent((record.get('pass_at') or {}).get(k))} {_interval(interval)}".rstrip()
    questions = (record.get("pass_at_questions") or {}).get(k)
    if questions is None or questions == (record.get("sampled") or {}).get("questions"):
        return shown
    return f'{shown} <span class="faint">of {questions}</span>'


def _count(decoding: Record) -> str:
    """'n = 256 of 64': answers, of so many distinct questions where that is recorded."""
    n, questions = decoding.get("n"), decoding.get("questions")
    if n is None:
        return ""
    of = "" if questions is None else f" of {questions}"
    return f'<span class="faint">n = {n}{of}</span>'


def _recognition(record: Record | None) -> float | None:
    return ((record or {}).get("metrics") or {}).get("recognition")


def _measures(stages: dict[str, dict[str, Record]]) -> str:
    """The environment's own metrics, and how episodes ended."""
    rows = []
    names = dict.fromkeys(
        name for s in stages.values() for r in s.values() for name in r.get("metrics") or {}
    )
    shown = [name for name in names if name not in ("success", "first_try")]
    for variant in _variants(stages):
        for stage, found in stages.items():
            if variant not in found:
                continue
            r = found[variant]
            means = [r["metrics"].get(name) for name in shown]
            ends = ", ".join(f"{n} {escape(end)}" for end, n in (r.get("ends") or {}).items())
            rows.append(
                [
                    escape(variant),
                    f'<span class="{stage}">{plots.stage_name(stage, {"": r})}</span>',
                    *("–" if mean is None else f"{mean:.3f}" for mean in means),
                    _reward(r.get("reward")),
                    ends or "–",
                ]
            )
    head = ["variant", "stage", *(escape(name) for name in shown), "reward", "ends"]
    return table(head, rows) if rows else ""


def _times(summary: Record) -> str:
    total = summary["elapsed_s"]
    rows = [
        [escape(phase), f"{s:,.1f}", _percent(s / total if total else None)]
        for phase, s in summary["seconds"].items()
    ]
    rest = total - sum(summary["seconds"].values())
    rows.append(["between phases", f"{rest:,.1f}", _percent(rest / total if total else None)])
    return table(["phase", "s", "% of run"], rows)


def _speeds(summary: Record) -> str:
    rows = [[escape(p), f"{rate:,.0f}"] for p, rate in summary["tokens_per_second"].items()]
    return table(["part", "tokens/s"], rows) if rows else ""


def _proofs(summary: Record, records: list[Record]) -> str:
    """Differences of log-probabilities, of the run and of the proof by kind of weight."""

    def small(value: float | None) -> str:
        return "–" if value is None else f"{value:.1e}"

    parity = summary["parity"]
    if parity["mean_abs"] is None:
        return ""
    rows = [["largest of the run", small(parity["mean_abs"]), small(parity["kl"]), ""]]
    for record in records:
        for kind, check in (record.get("check") or {}).items():
            tokens = check.get("parity_tokens")
            perturbed = "" if kind.startswith("rollout worker") else " perturbed"
            row = [f"{escape(kind)}{perturbed}", *(small(check.get(key)) for key in PARITY)]
            rows.append([*row, f"{tokens:,.0f}" if tokens else ""])
    head = ["log-probabilities", "mean |difference|", "KL", "tokens"]
    note = f"Publishes of weights: {parity['syncs']}."
    return f'{table(head, rows)}\n<p class="faint">{note}</p>'


def _incidents(summary: Record) -> str:
    rows = [
        [f"{r['elapsed_s']:,.0f}", *(escape(str(r.get(k, ""))) for k in ("kind", "who", "cause"))]
        for r in summary["incidents"]
    ]
    return table(["s", "what", "who", "cause"], rows) if rows else ""


def _conversations(samples: list[Record]) -> str:
    """Newest stage first: what the trained policy does is asked most often."""
    newest = {
        s["stage"]: max(e.get("update") or 0 for e in samples if e["stage"] == s["stage"])
        for s in samples
    }
    for stage in newest:  # the evaluation at a phase's end carries update 0
        if any(e["stage"] == stage and not e.get("update") for e in samples):
            newest[stage] = 0
    parts: list[str] = []
    for stage in ("ppo", "sft", "start"):
        for sample in samples:
            if sample["stage"] == stage and (sample.get("update") or 0) == newest[stage]:
                parts.append(conversation(sample, opened=not parts))
    return "\n".join(parts)


def conversation(sample: Record, opened: bool) -> str:
    """A sample episode as a fold; its texts are escaped."""
    stage = escape(sample["stage"])
    won = bool(sample.get("success"))
    head = (
        f'<b class="{stage}">{plots.stage_name(sample["stage"], {"": sample})}</b> · '
        f"{escape(str(sample['variant']))} · seed {escape(str(sample.get('seed')))} · "
        f'<span class="{"won" if won else "lost"}">{"solved" if won else "not solved"}</span> · '
        f"{escape(str(sample.get('end')))} · reward {_reward(sample.get('reward'))}"
    )
    body = "\n".join(_message(message) for message in sample["messages"])
    state = " open" if opened else ""
    return f"<details{state}><summary>{head}</summary>\n<div>{body}</div></details>"


def _message(message: Record) -> str:
    role = escape(str(message["role"]))
    pictures = "".join(
        f'<img src="{escape(str(uri))}" alt="what the policy saw">'
        for uri in message.get("pictures", ())
    )
    verdict = ""
    if message.get("reward") is not None:
        sign = "won" if message["reward"] > 0 else "lost"
        verdict = (
            f'<div class="verdict"><b class="{sign}">{_reward(message["reward"])}</b> '
            f"{escape(str(message.get('verdict') or ''))}</div>"
        )
    return (
        f'<div class="message {role}"><div class="role">{role}</div>{pictures}'
        f"<pre>{escape(str(message['content']))}</pre>{verdict}</div>"
    )


def _reward(value: float | None) -> str:
    return "–" if value is None else f"{round(value, 2):+g}".replace("-", "−")


def _configuration(file: Path) -> str:
    if not file.is_file():
        return ""
    text = escape(file.read_text())
    return f"<details><summary>config.yaml</summary><div><pre>{text}</pre></div></details>"
