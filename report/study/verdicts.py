"""A study's findings in words: primary comparisons first, then claims of the literature."""

from __future__ import annotations

from html import escape

from report.study.findings import Claim, Comparison, Findings
from report.study.results import Study


def primary(study: Study, found: Findings) -> str:
    """Each comparison that the study named before it began, with its verdict."""
    if not study.primary:
        return (
            '<p class="faint">The study names no primary comparisons: all that follows is '
            "exploratory and holds for these models only.</p>"
        )
    items = [f"<li>{_primary(c)}</li>" for c in found.primary]
    items += [
        f"<li>{escape(f'{p.arm} against {p.against}, {p.measure} on {p.variant}')}: "
        f'<b class="faint">{escape(why)}</b></li>'
        for p, why in found.waiting.items()
    ]
    note = (
        "Named before the study began. The test is over training seeds: the difference of each "
        f"seed, Student's t; p after Holm's correction for all {len(study.primary)}. Higher or "
        "lower: p below 0.05, and neither the 95 % interval over seeds nor that over questions "
        "(distinct hands or routes) contains 0. 'Not shown' is no proof that nothing differs."
    )
    return f'<ul>\n{chr(10).join(items)}\n</ul>\n<p class="faint">{note}</p>'


def _primary(c: Comparison) -> str:
    tone = "" if c.verdict in ("higher", "lower") else "faint"
    what = escape(f"{c.first.label} against {c.second.label}, {c.measure} on {c.variant}")
    return f'{what}: <b class="{tone}">{escape(c.verdict)}</b>{_unequal(c)} {_numbers(c, "")}'


def claims(found: Findings) -> str:
    """Each claim with the variants on which it holds, fails or stays open."""
    if not found.claims:
        return '<p class="faint">No two arms are finished that could be compared.</p>'
    items = "\n".join(f"<li>{_claim(claim)}</li>" for claim in found.claims)
    total = sum(not c.primary for claim in found.claims for c in claim.comparisons)
    note = (
        "'Holds' is said of primary comparisons at the same compute (to 10 %), or against the "
        f"initial model. The other {total} comparisons are exploratory: tested over questions "
        "(McNemar's exact test, p after Holm's correction for all of them), they hold for these "
        "models and not of new training seeds."
    )
    return f'<ul class="claims">\n{items}\n</ul>\n<p class="faint">{note}</p>'


def _claim(claim: Claim) -> str:
    parts = []
    for c in claim.comparisons:
        word = c.against(claim.expected)
        tone = "holds" if word == "holds" else "fails" if "opposite" in word else "faint"
        kind = "primary" if c.primary else "exploratory"
        parts.append(
            f'<li><b class="{tone}">{escape(word)}</b> on {escape(c.variant)} ({kind})'
            f"{_unequal(c)}: {_numbers(c, f'{c.label}: ')}</li>"
        )
    parts += [
        f'<li><b class="faint">not compared</b> on {escape(variant)}: {escape(why)}</li>'
        for variant, why in claim.left_out.items()
    ]
    return f"{escape(claim.text)}<ul>{''.join(parts)}</ul>"


def _unequal(c: Comparison) -> str:
    return f" – {escape(c.compute)}" if c.compute else ""


def _numbers(c: Comparison, what: str) -> str:
    """What was compared, with n, intervals and p."""
    shares = f"{100 * c.first.share:.1f} against {100 * c.second.share:.1f} %"
    seeds = f"{c.seeds.n} seed{'' if c.seeds.n == 1 else 's'}"
    p = "no p" if c.p is None else f"p {p_value(c.p_holm)}"
    text = (
        f"{what}{shares}, {signed(c.difference)} points; 95 % over questions "
        f"{bounds(c.interval)}, over seeds {bounds(c.seeds.interval)}; n = {c.questions} questions "
        f"× {seeds}, {p}"
    )
    return f'<span class="faint">{escape(text)}</span>'


def bounds(interval: tuple[float, float] | None) -> str:
    """An interval of differences in percentage points; 'unknown' where seeds have no spread."""
    return "unknown" if interval is None else f"[{signed(interval[0])}, {signed(interval[1])}]"


def signed(share: float) -> str:
    """A difference in percentage points."""
    return f"{100 * share:+.1f}".replace("-", "−")


def p_value(p: float) -> str:
    """With its relation: '< 0.0001' or '= 0.03'."""
    return "< 0.0001" if p < 1e-4 else f"= {p:.4f}" if p < 0.01 else f"= {p:.2f}"
