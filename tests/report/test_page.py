"""The page: complete, self-contained, and safe against what models write."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from report import page as report
from report.page import write_report
from report.statistics import summarise
from tests.support.example_run import make_run

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects text and attributes; complains of what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text("utf-8"))


def test_the_three_files(tmp_path: Path) -> None:
    summary = write_report(make_run(tmp_path))
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    shown = page(tmp_path)
    assert shown.open == []
    for words in (
        "Success on train : 0.0 % start, 33.0 % after SFT, 56.1 % after PPO",
        "intervals of SFT and PPO do not overlap",
        "held_out 512 0.0 [0.0, 0.7]",
        "30.1 [26.3, 34.2]",
        "46.1 [41.8, 50.4]",
        "8,680 parameters",
        "sft 170.1 39.3",
        "rollout 5,200",
        "5.0e-06 3.0e-11",
        "head perturbed",
        "face_rule: ten",
        "seed 1000000 · solved",
    ):
        assert words in shown.text, words


def test_it_needs_no_network(tmp_path: Path) -> None:
    write_report(make_run(tmp_path))
    shown = page(tmp_path)
    assert [link[:22] for link in shown.links] == ["data:image/png;base64,"]
    text = re.sub('base64,[^"]*"', "", (tmp_path / "report.html").read_text())
    assert "@import" not in text
    assert "url(" not in text
    assert "http" not in text


def test_text_of_models_is_escaped(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    attack = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    sample = {
        "stage": "ppo",
        "variant": attack,
        "seed": attack,
        "end": attack,
        "success": 0.0,
        "reward": 1.0,
        "messages": [
            {"role": attack, "content": attack},
            {"role": "assistant", "content": attack, "reward": 1.0, "verdict": attack},
        ],
    }
    with (run / "episodes.jsonl").open("a") as stream:
        stream.write(json.dumps(sample) + "\n")
    (run / "config.yaml").write_text(f"name: '{attack}'\nseed: 1\n")
    records = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(records.replace("ranks_11_12_13", json.dumps(attack)[1:-1]))
    (run / "status.json").write_text(json.dumps({"status": "failed", "cause": attack}))
    write_report(run)
    shown = page(run)
    assert "script" not in shown.tags
    assert shown.tags.count("img") == 1
    assert shown.text.count("<script>alert(1)</script>") >= 8


@pytest.mark.parametrize(
    ("upto", "status", "words"),
    [
        ("start", "failed", "Success on train : 0.0 % start."),
        ("sft", "interrupted", "33.0 % after SFT."),
        ("ppo-part", None, "38.1 % PPO, update 10. The 95 % intervals of SFT and PPO overlap."),
    ],
)
def test_a_run_broken_off(tmp_path: Path, upto: str, status: str | None, words: str) -> None:
    write_report(make_run(tmp_path, upto, status))
    shown = page(tmp_path)
    assert words in shown.text
    assert (status or "interrupted") in shown.text


def test_nothing_but_a_folder(tmp_path: Path) -> None:
    assert write_report(tmp_path)["stages"] == {}
    assert "No evaluation was finished." in page(tmp_path).text


def test_samples_of_the_last_evaluation_only(tmp_path: Path) -> None:
    run = make_run(tmp_path, "sft")
    for update in (10, 20):
        line: dict[str, Any] = {
            "stage": "ppo",
            "variant": "train",
            "update": update,
            "seed": update,
            "end": "x",
            "success": 1.0,
            "reward": 1.0,
            "messages": [],
        }
        with (run / "episodes.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
    write_report(run)
    text = page(run).text
    assert "seed 20 ·" in text
    assert "seed 10 ·" not in text


def test_samples_show_what_the_policy_saw(tmp_path: Path) -> None:
    seen = "data:image/png;base64,AAAA"
    message = {"role": "user", "content": "which cards?", "pictures": [seen]}
    page = report.conversation(
        {
            "stage": "sft",
            "variant": "train",
            "seed": 1,
            "end": "terminated",
            "success": 1.0,
            "reward": 5.0,
            "messages": [message],
        },
        opened=True,
    )
    assert f'<img src="{seen}"' in page


def test_recognition_stands_beside_success_where_there_is_any(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_report(run)
    assert "recognition" not in page(run).text
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "eval" and line["variant"] != "held_out":
            line["metrics"]["recognition"] = 0.984
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(run)
    text = page(run).text
    assert text.count("recognition, %") == 3  # start, SFT, PPO
    assert "train 512 0.0 [0.0, 0.7] 0.0 98.4 33.0" in text
    assert "held_out 512 0.0 [0.0, 0.7] 0.0 – 30.1" in text


def change_evaluations(run: Path, change: Any) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [change(line) if line["kind"] == "eval" else line for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_nothing_against_nothing_is_no_overlap(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    change_evaluations(run, lambda r: r | {"success": 0.0, "interval": [0.0, 0.01]})
    write_report(run)
    text = page(run).text
    assert "SFT and PPO solve nothing: there is nothing to compare." in text
    assert "overlap" not in text


def test_greedy_is_the_headline_and_stands_beside_sampled_and_passes(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_report(run)
    assert "pass@" not in page(run).text
    decodings = {
        "greedy": {"success": 0.75, "n": 230, "interval": [0.7, 0.8]},
        "sampled": {"success": 0.5, "n": 920, "questions": 64, "interval": [0.45, 0.55]},
        "pass_at": {"1": 0.5, "4": 0.8, "16": 0.9},
        "pass_at_questions": {"1": 64, "16": 63},
        "pass_at_interval": {"1": [0.45, 0.55], "16": [0.8, 0.95]},
    }
    change_evaluations(run, lambda r: r | (decodings if r["variant"] == "train" else {}))
    write_report(run)
    text = page(run).text
    assert "75.0 % after SFT, 75.0 % after PPO" in text
    assert "greedy, % sampled, % pass@1, % pass@4, % pass@16, %" in text
    sampled = "50.0 [45.0, 55.0] n = 920 of 64 50.0 [45.0, 55.0] 80.0 90.0 [80.0, 95.0] of 63"
    assert f"train after PPO 75.0 [70.0, 80.0] n = 230 {sampled}" in text
    assert "train 230 75.0 [70.0, 80.0]" in text
    assert "held_out 512 0.0 [0.0, 0.7]" in text  # a record without them


def test_the_page_says_what_training_can_have_seen(tmp_path: Path) -> None:
    write_report(make_run(tmp_path / "new", tries=1))
    rows = page(tmp_path / "new").text.split("Other measures")[0]
    assert "all of it can have been trained on held_out 512 of 230 distinct hands" in rows
    assert "held out of this training ranks_11_12_13" in rows
    assert "some of it can have been trained on Greedy answers: success" in rows
    write_report(make_run(tmp_path / "old"))
    assert page(tmp_path / "old").text.count("not known") == 3


def test_the_first_answer_leads_where_there_are_several_tries(tmp_path: Path) -> None:
    run = make_run(tmp_path, tries=2)
    write_report(run)
    text = page(run).text
    low, high = (
        100 * bound
        for bound in summarise([float(i < 172) for i in range(512)], [i % 230 for i in range(512)])[
            "interval"
        ]
    )
    for words in (
        "Success at the first answer on train , greedy answers:",
        "33.6 % after PPO (56.1 % within all tries). The 95 % intervals of SFT and PPO do not",
        "train 512 of 230 distinct hands success at the first answer",
        f"33.6 [{low:.1f}, {high:.1f}] 56.1 within all tries",
        "success above is about; here within all tries",
        "n: episodes of distinct hands",
    ):
        assert words in text, words


def test_one_try_leads_with_success_beside_several(tmp_path: Path) -> None:
    run = make_run(tmp_path, tries=2)
    change_evaluations(
        run, lambda r: r | ({} if r["variant"] == "train" else {"headline": "success"})
    )
    write_report(run)
    text = page(run).text
    assert "held_out 512 of 230 distinct hands success 0.0 [0.0, 0.7] 0.0 first try" in text
    assert "train 512 of 230 distinct hands success at the first answer 0.0 [" in text


def test_without_outcomes_the_first_answer_has_no_interval(tmp_path: Path) -> None:
    run = make_run(tmp_path, tries=2)
    (run / "outcomes.jsonl").unlink()
    write_report(run)
    text = page(run).text
    assert "33.6 56.1 within all tries" in text
    assert "intervals of SFT" not in text


def test_floors_and_epochs_are_shown_where_a_run_has_them(tmp_path: Path) -> None:
    write_report(make_run(tmp_path / "new", tries=1))
    text = page(tmp_path / "new").text
    assert (
        "variant baseline success, % first try, % n distinct train random 2.0 1.0 200 124" in text
    )
    assert text.count("look-up : what was <learned> by heart") == 1
    assert "each of 48,000 demonstrations seen 2.67 times" in text
    write_report(make_run(tmp_path / "old"))
    text = page(tmp_path / "old").text
    assert "Floors" not in text
    assert "demonstrations seen" not in text
