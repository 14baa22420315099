"""The tables of `cardinal check`."""

from dataclasses import replace

import pytest

from cluster.placement.plan import plan
from cluster.preflight.check import CheckedRun
from cluster.preflight.demonstrations import DataSample
from cluster.preflight.show import _data_line, plan_rows, show, show_plan
from tests.cluster.placement.clusters import HEAD, LARGE, SMALL, debug, node


def test_the_table_names_each_node_and_its_work():
    rows = list(plan_rows(plan(debug("rollout.workers=2", "learner.ranks=2"), SMALL)))
    text = {row[0]: " ".join(row[1:]) for row in rows}
    assert "(no work)" in text["head"]
    assert any("learner ranks 0-1 (1 CPU each)" in line for line in text.values())
    busy = plan(debug(), [node("a", 8, free={"CPU": 4.0})])
    assert "held by others" in next(plan_rows(busy))[1]


def row(plan, name):
    return next(row for row in plan_rows(plan) if row[0] == name)


def test_gpus_and_colocated_engines_are_named():
    colocated = debug("cluster.layout=colocated", "rollout.workers=8", "learner.ranks=8")
    assert row(plan(colocated, LARGE), "gpu-a") == (
        "gpu-a",
        "16 of 32",
        "8 of 8 H100",
        "rollout workers 0-7 (1 CPU each, on the ranks' GPUs); "
        "learner ranks 0-7 (1 CPU + 1 GPU each)",
    )
    apart = plan(debug("rollout.workers=3"), [HEAD, node("a", 2), node("b", 9)])
    work = row(apart, "b")[-1]
    assert work.startswith("rollout workers 0, 2 (1 CPU each)"), work
    one = plan(debug(), [node("a", 8, 2, "L4", free={"GPU": 2.0, "CPU": 5.0})])
    assert next(plan_rows(one)) == (
        "a",
        "2.5 of 8, 3 held by others",
        "2 of 2 L4",
        "rollout worker 0 (1 CPU + 1 GPU); learner rank 0 (1 CPU + 1 GPU); room for data tasks",
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "tokens"),
        (("a",), "tokens; not read: a"),
        (("\udcff.txt",), "tokens; not read: \\udcff.txt"),
        (tuple("abcde"), "tokens; not read: a, b, c, d, e"),
        (tuple("abcdefg"), "tokens; not read: a, b, c, d, e and 2 more"),
    ],
)
def test_what_a_folder_of_demonstrations_holds_besides(names, words):
    sample = DataSample(9, 2, 9, 4, 0, 7, names)
    assert _data_line(sample, None).endswith(f"the longest has 7 {words}")


@pytest.mark.parametrize(("read", "words"), [(9_000, "all read"), (5_000, "the first 5,000 read")])
def test_how_many_demonstrations_were_read(read, words):
    line = _data_line(DataSample(9_000, 1, read, 4, 0, 7), None)
    assert line.startswith(f"9,000 demonstrations in 1 file, {words}; of 4 rendered the longest")


def test_what_is_shown_of_a_run(capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cfg = debug("seed=7", "cluster.root=/no[old]where")
    memory = {"engine weights": 3 * 2**20, "reference policy": 0, "processes": 2 * 2**20}
    where, ends = plan(cfg, [node("a", 8)]), ("<|im_end|>", "[/s]")  # no mark-up of rich
    run = CheckedRun(cfg, {"layers": 1234}, memory, None, 2**30, {"eval/x": 77}, where, ends)
    show(run)
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "seed 7",
        "layers 1,234",
        "engine weights 3",
        "all 5",
        "free here 1,024",
        "eval/x 77",
        "an answer ends with <|im_end|> or [/s], which every checkpoint's generation_config.json",
        "placement on a local Ray on this machine",
        f"run folder /no[old]where/{cfg.name}",
    ):
        assert words in shown, words
    assert "reference policy" not in shown
    assert "GPU at its peak" not in shown
    show(replace(run, card=("learn", {"learner weights": 4 * 2**20, "vision encoder": 0})))
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "a learner rank's GPU at its peak: learn" in shown
    for words in ("learner weights 4", "all 4", "engine weights 3"):
        assert words in shown, words
    assert shown.count("free here") == 1
    assert "vision encoder" not in shown
    show_plan(run)
    assert "parameters" not in capsys.readouterr().out


@pytest.mark.parametrize(("keys", "told"), [((), True), (("cluster.channel=object_store",), False)])
def test_that_a_loss_ends_the_run_is_said_before_it_begins(capsys, keys, told):
    cfg = debug(*keys)
    where = plan(cfg, [node("a", 8, 2, "L4")])
    show(CheckedRun(cfg, {}, {}, None, 2**30, {}, where, ()))
    assert ("a lost rollout worker or buffer ends the run" in capsys.readouterr().out) == told
