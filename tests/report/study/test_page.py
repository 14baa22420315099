"""A study's page is whole, needs no network, escapes what others wrote, and opens in a browser."""

from __future__ import annotations

import csv
import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from cluster.cli import main
from report.study.figures import FIGURES
from report.study.page import write_study_report
from report.study.results import OUTCOMES, run_folder
from tests.report.test_page import Page
from tests.support.example_study import ARMS, SAME_COMPUTE, make_study

PRIMARY = [
    {"arm": "sft_ppo", "against": "sft_long", "variant": "rule_11_12_13"},
    {"arm": "sft_long", "against": "start", "variant": "all_5"},
    {"arm": "overfit_ppo", "against": "sft_ppo", "variant": "red_suits"},
]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("firefox")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "gp_l"
    make_study(folder, primary=PRIMARY, samples=4, ppo_tokens=SAME_COMPUTE)
    write_study_report(folder)
    return folder


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn and not painted, which takes most of a report's time."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: file.write_bytes(b"a picture"))


def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text("utf-8"))


def test_every_figure_and_table_stands_beside_the_page(whole: Path) -> None:
    drawn = {
        "compute",
        "bars",
        "frontier",
        "sharpness",
        "rl_and_sft",
        "sft_sweep",
        "recognition",
        "forgetting",
    }
    assert {f.stem for f in (whole / "report").glob("*.png")} == drawn
    tables = drawn | {"points", "comparisons", "published"}
    assert {f.stem for f in (whole / "report").glob("*.csv")} == tables
    with (whole / "report" / "bars.csv").open() as stream:
        rows = {(r["arm"], r["variant"]): r for r in csv.DictReader(stream)}
    lines = [
        json.loads(line)
        for seed in range(3)
        for line in (run_folder(whole, "sft_ppo", seed) / OUTCOMES).read_text().splitlines()
    ]
    mine = [
        r["success"]
        for r in lines
        if (r["update"], r["variant"], r["decoding"]) == (20, "all_5", "greedy")
    ]
    found = rows["sft_ppo", "all_5"]
    assert float(found["success"]) == pytest.approx(sum(mine) / len(mine))
    assert (found["n"], found["questions"]) == (str(len(mine)), "200") == ("600", "200")
    with (whole / "report" / "comparisons.csv").open() as stream:
        kinds = [r["kind"] for r in csv.DictReader(stream)]
    assert kinds[:3] == ["primary"] * 3
    assert "exploratory" in kinds


def test_the_page_says_what_holds_and_what_was_not_measured(whole: Path) -> None:
    shown = page(whole)
    assert shown.open == []
    for words in (
        "tiny and was trained from scratch",
        "an evaluation has 200 episodes of 200 distinct hands, greedy answers, and 4 sampled ones",
        "PPO update 20 against sft_long at SFT step 800, success on rule_11_12_13: higher",
        "from the same model holds on rule_11_12_13 (primary): sft_ppo at PPO update 20 − sft_long",
        "n = 200 questions × 3 seeds",
        "as expected in these runs: higher on all_5 (exploratory)",
        "ends below sft_ppo",
        "lower, but not at the same compute on red_suits (primary)",
        "overfit_ppo spent 1.5 times the FLOPs of sft_ppo",
        "sft_long spent 4.2e+10 FLOPs, start none",
        "held_out held out of this training",
        "rule_11_12_13 some of it can have been trained on",
        "red_suits all of it can have been trained on",
        "train blind 5.0 4.0 200 124",
        "blind : sees no <cards>",
        "sft 2.00 2.00 sft_long 2.00 4.00",
        "pass@4, %",
        "Not in this study: it needs arms of RL with different env.settings.verify_iter.",
        "arXiv 2501.17161",
        "GP-L rule success Llama-3.2-Vision-11B 11.5 3.4 15.0",
    ):
        assert words in shown.text, words
    assert "V-IRL" not in shown.text.split("Published figures")[1].split("Sample episodes")[0]


@pytest.mark.usefixtures("unpainted")
def test_the_first_answer_leads_where_there_are_several_tries(tmp_path: Path) -> None:
    several = ("train", "all_5")
    study = make_study(tmp_path / "study", n=40, seeds=(0, 1), samples=2, several=several)
    for file in sorted(study.glob("sft_ppo/seed*/floors.json")):
        file.write_text(file.read_text().replace("0.05", "0.06"))
    write_study_report(study)
    text = page(study).text
    assert "train success at the first answer held_out rule_11_12_13 all_5 success at the" in text
    with (study / "report" / "points.csv").open() as stream:
        rows = [r for r in csv.DictReader(stream) if (r["arm"], r["step"]) == ("sft", "800")]
    for variant, measure in (("train", "first_try"), ("held_out", "success")):
        mine = [r for r in rows if r["variant"] == variant]
        assert {r["headline"] for r in mine} == {measure if variant in several else "success"}
        lead = sum(float(r[measure]) for r in mine) / 2
        within = sum(float(r["success"]) for r in mine) / 2
        table = text.split("Success at the end of each arm")[1].split("Floors")[0]
        assert f"{100 * lead:.1f} [" in table
        assert (f"{100 * within:.1f} within 5 tries" in table) == (variant in several)
    with (study / "report" / "bars.csv").open() as stream:
        bars = {(r["arm"], r["variant"]): r for r in csv.DictReader(stream)}
    bar = bars["sft", "train"]
    assert (bar["measure"], float(bar["share"])) == ("first_try", pytest.approx(_mean(rows)))
    assert float(bar["low"]) < float(bar["share"]) < float(bar["high"]) < float(bar["success"])
    with (study / "report" / "compute.csv").open() as stream:
        ends = [r for r in csv.DictReader(stream) if (r["arm"], r["step"]) == ("sft", "800")]
    assert float(next(r for r in ends if r["variant"] == "train")["mean"]) == float(bar["share"])
    with (study / "report" / "comparisons.csv").open() as stream:
        measures = {(r["variant"], r["measure"]) for r in csv.DictReader(stream)}
    assert ("train", "first_try") in measures
    assert ("held_out", "success") in measures
    assert ("train", "success") not in measures
    assert "train (sft_ppo) blind 6.0 4.0" in text  # an arm with floors of its own
    assert "all_5 (sft, sft_long, ppo_only, overfit_ppo) blind 5.0 4.0" in text


def _mean(rows: list[dict[str, str]]) -> float:
    mine = [float(r["first_try"]) for r in rows if r["variant"] == "train"]
    return sum(mine) / len(mine)


@pytest.mark.usefixtures("unpainted")
def test_a_study_without_primary_comparisons_claims_nothing(tmp_path: Path) -> None:
    write_study_report(make_study(tmp_path, n=40, seeds=(0, 1)))
    text = page(tmp_path).text
    assert "The study names no primary comparisons" in text
    assert " holds on " not in text
    assert "(primary)" not in text
    assert "Greedy, sampled and pass@k" not in text


@pytest.mark.usefixtures("unpainted")
def test_two_seeds_cannot_be_judged(tmp_path: Path) -> None:
    write_study_report(make_study(tmp_path, n=40, seeds=(0, 1), primary=PRIMARY))
    text = page(tmp_path).text
    assert text.count("cannot be judged: 2 training seeds, a test over seeds needs 3") >= 3
    assert " holds on " not in text


@pytest.mark.usefixtures("unpainted")
def test_published_figures_stand_only_beside_ours(tmp_path: Path) -> None:
    write_study_report(make_study(tmp_path / "sft", {"sft": {}}, n=10, seeds=(0,)))
    assert "Llama-3.2-Vision-11B" not in page(tmp_path / "sft").text
    arms = {"sft": {}, "sft_ppo": {"from": "sft"}}
    make_study(tmp_path / "other", arms, n=10, seeds=(0,))
    for file in (tmp_path / "other").glob("*/seed*/config.yaml"):
        file.write_text(file.read_text().replace("cardinal/GeneralPoints-v0", "mine:Other-v0"))
    write_study_report(tmp_path / "other")
    assert "Llama-3.2-Vision-11B" not in page(tmp_path / "other").text


def test_the_budget_of_an_evaluation_is_said(whole: Path) -> None:
    assert "graded answers: 5" in page(whole).text


@pytest.mark.usefixtures("unpainted")
def test_single_steps_are_shown_where_an_environment_has_them(tmp_path: Path) -> None:
    arms = {"sft": {}, "sft_long": {"from": "sft"}, "sft_ppo": {"from": "sft"}}
    make_study(tmp_path, arms, n=20)
    write_study_report(tmp_path)
    assert "Per-step accuracy" not in page(tmp_path).text
    for file in tmp_path.glob(f"*/seed*/{OUTCOMES}"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        share = 0.25 if file.parts[-3] == "sft_long" else 0.75
        file.write_text("".join(json.dumps(r | {"per_step_accuracy": share}) + "\n" for r in rows))
    for file in tmp_path.glob("*/seed*/config.yaml"):
        text = file.read_text().replace("GeneralPoints-v0", "VIRL-v0")
        file.write_text(text.replace("face_rule", "action_space"))
    write_study_report(tmp_path)
    shown = page(tmp_path).text
    assert "Per-step accuracy at the end of each arm" in shown
    # Beside the published pair stand the arms that began from one model.
    words = r"this study\W+sft_long and sft_ppo rule_11_12_13 per-step accuracy .*?parameters "
    assert re.search(words + r"75\.0 \[.*? 25\.0 \[.*? 75\.0 \[", shown)
    assert "V-IRL-L rule per-step accuracy Llama-3.2-Vision-11B 80.8 1.3 91.8" in shown
    assert "GP-L" not in shown


def test_it_needs_no_network(whole: Path) -> None:
    shown = page(whole)
    assert shown.links
    assert all(link.startswith("data:image/png;base64,") for link in shown.links)
    text = re.sub('base64,[^"]*"', "", (whole / "report.html").read_text())
    assert not re.search(r"https?:|url\(|@import|<script|<link", text)


@pytest.mark.usefixtures("unpainted")
def test_an_unfinished_study_tells_what_there_is(tmp_path: Path) -> None:
    make_study(tmp_path, n=20, seeds=(0, 1))
    for arm in ("ppo_only", "overfit_ppo", "sft_long"):
        shutil.rmtree(tmp_path / arm)
    shutil.rmtree(run_folder(tmp_path, "sft_ppo", 1))
    write_study_report(tmp_path)
    text = page(tmp_path).text
    assert "sft_ppo, seed 1" in text
    assert "Not in this study: it needs an arm of RL after SFT and one without it." in text
    for arm in ("sft", "sft_ppo"):
        shutil.rmtree(tmp_path / arm)
    write_study_report(tmp_path)
    assert "No two arms are finished" in page(tmp_path).text
    assert not list((tmp_path / "report").glob("*.png"))


@pytest.mark.usefixtures("unpainted")
def test_verification_iterations(tmp_path: Path) -> None:
    arms: dict[str, Any] = {"sft": {}}
    arms |= {f"ppo_{k}": {"from": "sft", "verify_iter": k} for k in (1, 3, 5, 10)}
    write_study_report(make_study(tmp_path, arms, n=50))
    with (tmp_path / "report" / "verify_iterations.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    rows = [r for r in rows if r["variant"] == "all_5"]
    assert [r["verify_iter"] for r in rows] == ["1", "3", "5", "10"]
    assert float(rows[0]["growth"]) < float(rows[3]["growth"])


@pytest.mark.usefixtures("unpainted")
def test_texts_are_escaped(tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>"
    run = run_folder(make_study(tmp_path, {"sft": {}, "sft_ppo": {"from": "sft"}}, n=5), "sft", 0)
    sample = json.loads((run / "episodes.jsonl").read_text())
    sample["messages"][0] = {"role": attack, "content": attack}
    (run / "episodes.jsonl").write_text(json.dumps(sample) + "\n")
    for name in ("config.yaml", OUTCOMES, "metrics.jsonl"):
        text = (run / name).read_text().replace("rule_11_12_13", attack)
        (run / name).write_text(text)
    write_study_report(tmp_path)
    shown = page(tmp_path)
    assert "script" not in shown.tags
    assert shown.text.count(attack) >= 3


@pytest.mark.usefixtures("unpainted")
def test_the_command_knows_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = make_study(tmp_path, {"sft": {}}, n=5, seeds=(0,))
    assert main(["report", str(study)]) == 0
    assert capsys.readouterr().out.strip() == str(study / "report.html")
    assert (study / "report.html").is_file()


def test_every_figure_says_what_it_would_need() -> None:
    assert all(d.needs and d.note for d in FIGURES)
    assert len({d.key for d in FIGURES}) == len(FIGURES) == 9
    assert set(ARMS) >= {"sft", "sft_ppo", "ppo_only", "overfit_ppo"}


@pytest.mark.skipif(BROWSER is None or "firefox" in BROWSER, reason="no chromium on this machine")
@pytest.mark.parametrize("size", ["1280,900", "420,900"])
def test_a_real_browser_shows_it_and_asks_for_nothing_else(
    whole: Path, tmp_path: Path, size: str
) -> None:
    """Chromium lays the page out, asks the server for it alone and decodes every picture."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            asked.append(self.path)

    # A probe is added to a copy: the report itself holds no script.
    probe = (
        "<script>addEventListener('load', () => { const all = [...document.images];"
        "document.title = 'SEEN ' + all.filter(i => i.complete && i.naturalWidth > 900).length"
        " + ' of ' + all.length + ' WIDE ' + (document.documentElement.scrollWidth > innerWidth)"
        " })</script></body>"
    )
    text = (whole / "report.html").read_text("utf-8").replace("</body>", probe)
    (tmp_path / "page.html").write_text(text, "utf-8")
    serve = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            dom = subprocess.run(
                [
                    str(BROWSER),
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--dump-dom",
                    f"--user-data-dir={tmp_path / 'profile'}",
                    f"--window-size={size}",
                    "--virtual-time-budget=5000",
                    f"http://127.0.0.1:{server.server_port}/page.html",
                ],
                capture_output=True,
                text=True,
                timeout=500,
                check=True,
            ).stdout
        finally:
            server.shutdown()
    assert "SEEN 8 of 8 WIDE false" in dom
    assert set(asked) <= {"/page.html", "/favicon.ico"}
