"""Findings in words: how numbers are written, and which words stand for which verdict."""

from __future__ import annotations

import pytest

from configs.primary import Primary
from report.study.findings import Claim, Comparison, Findings
from report.study.verdicts import bounds, claims, p_value, primary, signed
from tests.report.study.drawing import study_of
from tests.report.study.test_findings import comparison

NAMED = study_of([], primary=(Primary("a", "b", "v"), Primary("c", "d", "w", "first_try")))
HIGHER = comparison([0.2, 0.21, 0.19])
EQUAL = comparison([0.2, 0.21, 0.19], p_holm=0.5)


def found(*compared: Comparison, waiting: tuple[Primary, ...] = ()) -> Findings:
    return Findings(list(compared), dict.fromkeys(waiting, "not finished"), [])


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0, "< 0.0001"),
        (0.00009, "< 0.0001"),
        (0.0001, "= 0.0001"),
        (0.00994, "= 0.0099"),
        (0.01, "= 0.01"),
        (1.0, "= 1.00"),
    ],
)
def test_p_values(p: float, text: str) -> None:
    assert p_value(p) == text


def test_differences_in_points() -> None:
    assert (signed(0.1234), signed(-0.05), signed(0.0)) == ("+12.3", "−5.0", "+0.0")
    assert bounds((-0.05, 0.1)) == "[−5.0, +10.0]"
    assert bounds(None) == "unknown"


def test_a_study_that_names_nothing_says_so() -> None:
    text = primary(study_of([]), found())
    assert "names no primary comparisons" in text
    assert "<ul>" not in text


def test_each_primary_comparison_has_its_verdict_and_its_numbers() -> None:
    text = primary(NAMED, found(HIGHER, EQUAL))
    first, second = text.split("<li>")[1:]
    assert 'a at end against b at end, success on v: <b class="">higher</b>' in first
    assert '<b class="faint">not shown</b>' in second
    for part in (
        "50.0 against 30.0 %, +20.0 points",
        "95 % over questions [+10.0, +30.0]",
        "n = 100 questions × 3 seeds, p = 0.0010",
    ):
        assert part in first, part
    assert "p = 0.50" in second
    assert "Holm&#x27;s correction for all 2" in text or "Holm's correction for all 2" in text


def test_comparisons_that_are_not_measured_yet_are_named() -> None:
    text = primary(NAMED, found(HIGHER, waiting=(NAMED.primary[1],)))
    assert 'c against d, first_try on w: <b class="faint">not finished</b>' in text


def test_one_seed_has_no_p_and_no_interval() -> None:
    text = primary(NAMED, found(comparison([0.2])))
    assert "over seeds unknown" in text
    assert "× 1 seed, no p" in text
    assert "cannot be judged" in text


def test_unequal_compute_is_said_beside_the_verdict() -> None:
    more = comparison([0.2, 0.21, 0.19], flops=(3e9, 1e9))
    assert "higher</b> – a spent 3.0 times the FLOPs of b" in primary(NAMED, found(more))
    assert "</b> –" not in primary(NAMED, found(HIGHER))


@pytest.mark.parametrize(
    ("compared", "expected", "tone", "words"),
    [
        (HIGHER, "higher", "holds", "holds"),
        (HIGHER, "lower", "fails", "the opposite: higher"),
        (EQUAL, "higher", "faint", "not shown"),
        (
            comparison([0.2, 0.21, 0.19], primary=False),
            "higher",
            "faint",
            "as expected in these runs: higher",
        ),
        (
            comparison([0.2, 0.21, 0.19], primary=False),
            "lower",
            "fails",
            "the opposite in these runs: higher",
        ),
        (
            comparison([0.2, 0.21, 0.19], flops=(3e9, 1e9)),
            "higher",
            "faint",
            "higher, but not at the same compute",
        ),
    ],
)
def test_a_claim_holds_fails_or_stays_open(
    compared: Comparison, expected: str, tone: str, words: str
) -> None:
    text = claims(Findings([], {}, [Claim("RL < SFT", expected, [compared])]))
    assert text.startswith('<ul class="claims">\n<li>RL &lt; SFT<ul>')
    kind = "primary" if compared.primary else "exploratory"
    assert f'<b class="{tone}">{words}</b> on v ({kind})' in text


def test_exploratory_comparisons_are_counted() -> None:
    other = comparison([0.2, 0.21, 0.19], primary=False)
    text = claims(Findings([], {}, [Claim("x", "higher", [HIGHER, other, other])]))
    assert "The other 2 comparisons are exploratory" in text
    assert "No two arms are finished" in claims(found())
