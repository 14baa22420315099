"""Tables of a study's page: shares with their intervals, dashes for what was not measured."""

from __future__ import annotations

import re
from typing import Any

import pytest

from report.evaluation import OVERLAPS
from report.statistics import clustered
from report.study import published, tables
from report.study.findings import Claim, Findings
from report.study.points import Tally
from report.study.results import Arm
from tests.report.study.drawing import point, study_of
from tests.report.study.test_findings import comparison

SFT = Arm("sft", "sft", None, None, None)
RL = Arm("rl", "rl", "sft", None, None)
POINTS = [
    point("sft", "start", 0, 0.1),
    point("sft", "sft", 8, 0.6),
    point("rl", "start", 0, 0.6),
    point("rl", "ppo", 5, 0.8),
]


def rows(html: str) -> list[list[str]]:
    """The texts of a table's cells, row by row, the head first."""
    lines = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", line, re.DOTALL) for line in lines]
    return [[" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in line] for line in cells]


def test_ends_are_the_initial_model_and_the_last_of_each_arm() -> None:
    head, *body = rows(tables.ends(study_of(POINTS, SFT, RL)))
    assert head == ["arm", "kind", "checkpoint", "in"]
    assert [line[:3] for line in body] == [
        ["start", "the initial model", "–"],
        ["sft", "sft", "SFT step 8"],
        ["rl", "rl", "PPO update 5"],
    ]
    low, high = (100 * x for x in clustered([1.0] * 6 + [0.0] * 4, [1] * 10))
    assert body[1][3] == f"60.0 [{low:.1f}, {high:.1f}] 60.0–60.0, n = 10 of 10"


def test_seeds_are_pooled_and_their_range_is_shown() -> None:
    study = study_of([*POINTS[:2], point("sft", "sft", 8, 0.2, seed=1)], SFT)
    words = rows(tables.ends(study))[2][3]
    assert words.startswith("40.0 [")
    assert words.endswith("20.0–60.0, n = 20 of 10")


def test_what_has_not_finished_has_no_share() -> None:
    study = study_of(POINTS, SFT, RL, finished={("sft", 0)})
    assert rows(tables.ends(study))[-1] == ["rl", "rl", "not finished", "–"]
    pretrained = Arm("pretrain", "pretrain", None, None, None)
    names = [line[0] for line in rows(tables.ends(study_of(POINTS, pretrained, SFT)))]
    assert names == ["arm", "start", "sft"]


def test_names_are_escaped() -> None:
    odd = Arm("<i>", "sft", None, None, None)
    html = tables.ends(study_of([point("<i>", "sft", 8, 0.6, variant="a&b")], odd))
    assert "&lt;i&gt;" in html
    assert "<i>" not in html
    assert "a&amp;b" in html


def test_decodings_need_samples_of_greedy_answers_or_several() -> None:
    few = {"q0": Tally(1.0, 4), "q9": Tally(3.0, 4)}  # greedy answers solve q0 alone
    start = point("sft", "start", 0, 0.1, samples=few)
    html = tables.decodings(study_of([start, POINTS[1]], SFT))
    head, first, second = rows(html)
    assert head[2:] == ["greedy, %", "sampled, %", "pass@1, %", "pass@4, %", "pass@16, %"]
    low, high = (f"{100 * bound:.1f}" for bound in clustered([1, 3], [4, 4]))
    assert first[:5] == ["start", "in", "50.0", "50.0", f"50.0 [{low}, {high}] 50.0–50.0"]
    low, high = (f"{100 * bound:.1f}" for bound in clustered([4, 4], [4, 4]))
    assert first[5:] == [f"100.0 [{low}, {high}] 100.0–100.0", "–"]
    assert second == ["sft", "in", "60.0", "–", "–", "–", "–"]
    assert tables.decodings(study_of(POINTS, SFT, RL)) == ""
    one = point("sft", "sft", 8, 0.6, decoding="sampled", samples={"q": Tally(1.0, 1)})
    assert tables.decodings(study_of([one], SFT)) == ""  # sampled once is no more than the headline
    several = point("sft", "sft", 8, 0.6, decoding="sampled", samples=few)
    assert rows(tables.decodings(study_of([several], SFT)))[-1][2:4] == ["–", "50.0"]


def test_pass_at_k_has_its_interval_over_questions_and_its_range_over_seeds() -> None:
    """A question's share is its mean over the seeds: those of one question are no two questions."""
    solved = ({"q": 0.0, "r": 4.0, "s": 1.0}, {"q": 0.0, "r": 4.0, "s": 4.0})
    points = [
        point("sft", "sft", 8, 0.5, seed=i, samples={q: Tally(n, 4) for q, n in each.items()})
        for i, each in enumerate(solved)
    ]
    _, line = rows(tables.decodings(study_of(points, SFT)))
    low, high = (f"{100 * bound:.1f}" for bound in clustered([0, 8, 5], [8, 8, 8]))
    assert line[4] == f"54.2 [{low}, {high}] 41.7–66.7"
    low, high = (f"{100 * bound:.1f}" for bound in clustered([0, 8, 8], [8, 8, 8]))
    assert line[5] == f"66.7 [{low}, {high}] 66.7–66.7"
    alike = {"q": Tally(2.0, 4), "r": Tally(2.0, 4), "s": Tally(3.0, 4)}
    half = dict.fromkeys("qrs", Tally(2.0, 4))
    points = [point("sft", "sft", 8, 0.5, seed=i, samples=s) for i, s in enumerate((alike, half))]
    low, high = (f"{100 * bound:.1f}" for bound in clustered([4, 4, 5], [8, 8, 8]))
    assert f"[{low}, {high}]" in rows(tables.decodings(study_of(points, SFT)))[1][4]


def test_a_mean_over_seeds_needs_all_of_them() -> None:
    few = {f"q{i}": Tally(1.0, 2) for i in range(10)}
    points = [
        point("sft", "sft", 8, 0.6, samples=few),
        point("sft", "sft", 8, 0.2, seed=1),
    ]
    assert rows(tables.decodings(study_of(points, SFT)))[-1][2:4] == ["40.0", "–"]


def test_single_steps_where_there_are_any() -> None:
    assert tables.accuracy(study_of(POINTS, SFT, RL)) == ""
    steps = {"per_step_accuracy": {"q": Tally(0.75, 1), "r": Tally(0.25, 1)}}
    points = [POINTS[0], point("sft", "sft", 8, 0.6, measures=steps)]
    _, first, second = rows(tables.accuracy(study_of(points, SFT)))
    assert first == ["start", "–"]
    assert second[1].startswith("50.0 [")


def config(steps: int = 100, **env: Any) -> dict[str, Any]:
    return {
        "env": {"id": "cardinal/GeneralPoints-v0", "settings": {"hands": "train"} | env},
        "sft": {"steps": steps, "batch_size": 8, "demonstrations": 400, "data": None},
        "ppo": {"updates": 0},
        "eval": {"variants": {"in": {}, "out": {"hands": "held_out"}}},
    }


def test_exposure_of_variants_and_of_demonstrations_along_the_chain() -> None:
    longer = Arm("longer", "sft", "sft", 50, None)
    points = [
        point("sft", "sft", 8, 0.6, overlap="all"),
        point("longer", "sft", 8, 0.6, variant="out", overlap="none"),
    ]
    study = study_of(
        points, SFT, longer, RL, configs={"sft": config(), "longer": config(200), "rl": {}}
    )
    variants, seen = (rows(part) for part in tables.exposures(study).split("</table>")[:2])
    assert variants[1:] == [["in", OVERLAPS["all"]], ["out", OVERLAPS["none"]]]
    assert seen[1:] == [["sft", "2.00", "2.00"], ["longer", "4.00", "5.00"]]  # 50 steps of sft's


def test_what_an_arm_can_have_trained_on_the_study_can() -> None:
    both = [point(arm, "sft", 8, 0.6, overlap=o) for arm, o in (("sft", "none"), ("rl", "some"))]
    assert rows(tables.exposures(study_of(both, SFT, RL)))[1] == ["in", OVERLAPS["some"]]
    older = tables.exposures(study_of(POINTS, SFT))  # whose records do not say it
    assert rows(older)[1:] == [["in", OVERLAPS["unknown"]]]


def test_other_demonstrations_before_are_not_counted() -> None:
    longer = Arm("longer", "sft", "sft", None, None)
    other = config(200, face_rule="ranks")
    study = study_of(POINTS[:2], SFT, longer, configs={"sft": config(), "longer": other})
    assert rows(tables.exposures(study))[-1] == ["longer", "4.00", "4.00"]


def test_each_comparison_stands_once_the_primary_ones_first() -> None:
    named = comparison([0.2, 0.21, 0.19])
    other = comparison(
        [-0.2, -0.21, -0.19], primary=False, shares=(0.3, 0.5), interval=(-0.3, -0.1)
    )
    claims = [Claim("one", "higher", [other, named]), Claim("two", "higher", [other])]
    _, *body = rows(tables.comparisons(Findings([named], {}, claims)))
    assert [line[0] for line in body] == ["primary", "exploratory"]
    assert body[0][1:5] == ["a at end − b at end", "success on v", "100", "+20.0"]
    assert body[0][5] == "[+10.0, +30.0]"
    assert body[1][4] == "−20.0"
    assert body[1][10] == "lower"
    assert tables.comparisons(Findings([], {}, [])) == ""


def test_a_comparison_that_cannot_be_judged_has_no_p() -> None:
    (line,) = rows(tables.comparisons(Findings([comparison([0.2])], {}, [])))[1:]
    assert line[6:10] == ["unknown", "1", "–", "–"]


RULE = {
    "env": {"id": "cardinal/GeneralPoints-v0", "settings": {}},
    "eval": {"variants": {"rule": {"face_rule": "ranks"}, "red": {"suits": "red"}}},
}
SIDES = [
    point(arm, phase, step, share, variant=variant)
    for variant in ("rule", "red")
    for arm, phase, step, share in (
        ("sft", "start", 0, 0.2),
        ("sft", "sft", 8, 0.1),
        ("rl", "ppo", 5, 0.4),
    )
]


def test_published_rows_of_the_same_task_are_followed_by_ours() -> None:
    study = study_of(SIDES, SFT, RL, configs={"sft": RULE, "rl": {}}, parameters=1234)
    head, theirs, ours = rows(tables.beside_published(study))
    assert head[4:] == ["start, %", "SFT, %", "RL, %"]
    assert theirs == ["GP-L", "rule", "success", published.MODEL, "11.5", "3.4", "15.0"]
    assert ours[:4] == [
        "this study , sft and rl",
        "rule",
        "success",
        "from scratch, 1,234 parameters",
    ]
    assert [cell.split()[0] for cell in ours[4:]] == ["20.0", "10.0", "40.0"]


@pytest.mark.parametrize(
    "change",
    [
        {"configs": {"sft": {**RULE, "env": {"id": "mine:X-v0", "settings": {}}}}},
        {"finished": {("sft", 0)}},
        {"inside": ["rule"]},
    ],
)
def test_nothing_published_stands_alone(change: dict[str, Any]) -> None:
    study = study_of(SIDES, SFT, RL, **{"configs": {"sft": RULE}} | change)
    assert tables.beside_published(study) == ""
    assert tables.beside_published(study_of(SIDES, SFT, configs={"sft": RULE})) == ""


def test_sft_that_began_where_rl_did_is_set_against_it() -> None:
    longer = Arm("longer", "sft", "sft", None, None)
    points = [*SIDES, point("longer", "sft", 8, 0.3, variant="rule")]
    study = study_of(points, SFT, longer, RL, configs={"sft": RULE})
    assert rows(tables.beside_published(study))[2][0] == "this study , longer and rl"
    half = Arm("half", "rl", "sft", 4, None)  # from an earlier checkpoint than `longer`
    points += [point("half", "ppo", 5, 0.4, variant="rule")]
    study = study_of(points, SFT, longer, half, configs={"sft": RULE})
    assert rows(tables.beside_published(study))[2][0] == "this study , sft and half"


def test_arms_with_other_numbers_of_tries_say_so() -> None:
    few = {f"q{i}": Tally(1.0, 4) for i in range(10)}
    first = {"first_try": {f"q{i}": Tally(float(i < 3), 1) for i in range(10)}}
    points = [
        point(arm, phase, step, 0.6, samples=few, measures=first, headline="first_try")
        for arm, phase, step in (("sft", "sft", 8), ("rl", "ppo", 5))
    ]
    tries = {"sft": 1, "rl": 5}
    configs = {a: {"env": {"settings": {"verify_iter": n}}} for a, n in tries.items()}
    study = study_of(points, SFT, RL, configs=configs)
    ended = tables.ends(study)
    assert "60.0 within 1 tries" in ended
    assert "60.0 within 5 tries" in ended
    head, *body = rows(tables.decodings(study))
    assert head[:4] == ["arm", "variant", "tries", "greedy, %"]
    assert [line[:3] for line in body] == [["sft", "in", "1"], ["rl", "in", "5"]]
