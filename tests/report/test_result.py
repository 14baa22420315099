"""The last lines of a run: what it came to, and where its files are."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from rich.console import Console

from report.page import write_report
from report.progress import duration
from report.result import SERVER, closing_lines, print_result
from report.summary import summarise_run
from tests.support.example_run import make_run


def printed(folder: Path) -> str:
    out = io.StringIO()
    print_result(folder, summarise_run(folder), Console(file=out, width=300))
    return out.getvalue()


def test_success_through_the_stages_with_n_and_interval(tmp_path: Path) -> None:
    shown = printed(make_run(tmp_path, tries=1))
    assert "Success, greedy answers [95 % interval]\n" in shown
    row = next(line for line in shown.splitlines() if "held_out" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:2] == ["held_out", "512 of 230 distinct hands"]
    assert [cell.split(" [")[0] for cell in cells[2:]] == ["0.0 %", "30.1 %", "46.1 %"]
    assert cells[4].endswith("]")
    head = next(line for line in shown.splitlines() if "variant" in line)
    for earlier, later in (("n", "start"), ("start", "after SFT"), ("after SFT", "after PPO")):
        assert head.index(f" {earlier} ") < head.index(f" {later} ")


def test_the_first_answer_leads_where_a_question_may_be_answered_again(tmp_path: Path) -> None:
    shown = printed(make_run(tmp_path, tries=3))
    assert "Success at the first answer, greedy answers" in shown
    assert "at first [" in shown
    assert "within all tries" in shown


def test_a_stage_without_a_variant_has_a_dash_and_a_run_without_stages_no_table(
    tmp_path: Path,
) -> None:
    folder = make_run(tmp_path)
    file = folder / "metrics.jsonl"
    kept = [
        line
        for line in file.read_text().splitlines()
        if (json.loads(line).get("stage"), json.loads(line).get("variant")) != ("sft", "train")
    ]
    file.write_text("\n".join(kept) + "\n")
    row = next(line for line in printed(folder).splitlines() if " train " in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][3] == "–"
    file.write_text("")
    assert "95 % interval" not in printed(folder)


def test_one_duration_in_the_last_lines_the_summary_and_the_report(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    summary = write_report(folder)
    seconds = json.loads((folder / "summary.json").read_text())["elapsed_s"]
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["elapsed_s"]
    assert seconds == summary["elapsed_s"] == last
    assert closing_lines(folder, summary)[0].startswith(f"{duration(seconds)} ({seconds:.0f} s)")
    assert f"{seconds:,.0f} s" in (folder / "report.html").read_text()


def test_the_last_checkpoint_is_named_with_the_line_that_serves_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    summary = summarise_run(folder)
    assert not any("vllm" in line for line in closing_lines(folder, summary))
    for stage in ("sft", "ppo"):
        place = folder / "checkpoints" / stage
        place.mkdir(parents=True)
        chat = f"chat        {sys.executable} -m {SERVER} --model {place}"
        assert chat in closing_lines(folder, summary)
    assert f"report      {folder / 'report.html'}" in closing_lines(folder, summary)
