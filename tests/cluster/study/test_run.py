"""Studies: what is refused, in which order arms run, and what a restart leaves alone."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from cluster import cli
from cluster.failures import PlacementError
from cluster.placement.types import Node
from cluster.study import run as run_module
from cluster.study.run import check_study, refuse_study, run_study
from cluster.study.slots import BUSY, FINISHED
from configs.load import ConfigError, dump, load
from configs.study import FOLDER, load_study
from tests.support.example_study import write_model

ARMS = """
  ppo: {from: sft, at: 10, set: {sft.steps: 0, ppo.updates: 3}}
  sft: {set: ["sft.steps=20", "ppo.updates=0", "sft.keep=[10]"]}
  sweep: {from: sft, set: {sft.steps: 0}, sweep: {ppo.clip: [0.1, 0.2], seed_unused: []}}
"""


def written(folder, arms, head="base: gp_l_debug\nseeds: [1, 2]\n"):
    file = folder / "mine.yaml"
    file.write_text(f"{head}root: {folder / 'runs'}\narms:\n{arms}")
    return file


GOOD = ARMS.replace(", seed_unused: []", "")


class Trainer:
    """In the place of Slots: writes what a run leaves at once, and remembers what it was asked.

    fails: run to the status or the error with which it ends.
    """

    def __init__(self, fails=None, count=1):
        self.asked, self.fails, self.running, self.count = [], fails or {}, [], count

    @property
    def free(self):
        return len(self.running) < self.count

    def begin(self, name, cfg, resume):
        assert self.free
        folder = Path(cfg.cluster.root) / cfg.name
        assert name == f"{folder.parent.name}/{folder.name}"
        self.asked.append((name, resume))
        self.running.append((name, folder))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(dump(cfg))

    def wait(self):
        name, folder = self.running.pop()
        status = self.fails.pop(name, FINISHED)
        if isinstance(status, BaseException):
            raise status
        if status == FINISHED:
            self.finish(folder)
        return name, status

    def finish(self, folder):
        record = {
            "kind": "eval",
            "stage": "sft",
            "step": 0,
            "update": 0,
            "variant": "train",
            "success": 0.5,
            "n": 4,
            "interval": [0.2, 0.8],
            "first_try": 0.5,
        }
        sft = {"kind": "sft", "step": 20, "tokens_trained": 100, "tokens": 5, "action_tokens": 2}
        lines = [json.dumps(r | {"time": 0, "elapsed_s": 0}) for r in (sft, record)]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "status.json").write_text('{"status": "finished", "cause": ""}')


def test_arms_come_after_their_source_and_begin_from_its_checkpoint(tmp_path):
    study, train = load_study(written(tmp_path, GOOD)), Trainer()
    assert list(study.arms) == ["sft", "ppo", "sweep_clip-0.1", "sweep_clip-0.2"]
    assert study.run("sweep_clip-0.2", 1).ppo.clip == 0.2
    sft = tmp_path / "runs" / "mine" / "sft" / "seed2" / "checkpoints"
    assert study.run("ppo", 2).model.path == str(sft / "sft-10")
    assert study.run("sweep_clip-0.1", 2).model.path == str(sft / "sft")
    assert run_study(study, train) == 0
    assert train.asked == [(f"{arm}/seed{seed}", False) for seed in (1, 2) for arm in study.arms]
    rows = list(csv.DictReader((study.folder / "results.csv").open()))
    assert len(rows) == 8
    assert {row["sft_tokens"] for row in rows} == {"100.0"}


def test_a_restart_repeats_nothing_and_resumes_what_was_interrupted(tmp_path):
    study = load_study(written(tmp_path, GOOD))
    first = Trainer({"ppo/seed1": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        run_study(study, first)
    done = study.folder / "sft" / "seed1" / "metrics.jsonl"
    before = done.stat().st_mtime_ns
    again = Trainer()
    assert run_study(study, again) == 0
    assert again.asked[0] == ("ppo/seed1", True)
    assert "sft/seed1" not in dict(again.asked)
    assert done.stat().st_mtime_ns == before
    last, results = Trainer(), (study.folder / "results.csv").read_bytes()
    assert run_study(study, last) == 0
    assert last.asked == []
    assert (study.folder / "results.csv").read_bytes() == results


def test_a_failed_arm_skips_those_that_need_it_and_no_other(tmp_path):
    study = load_study(written(tmp_path, GOOD))
    train = Trainer({"sft/seed1": "failed: the engine was lost"})
    assert run_study(study, train) == 1
    runs = json.loads((study.folder / "study.json").read_text())["runs"]
    assert runs["sft/seed1"] == "failed: the engine was lost"
    assert runs["ppo/seed1"] == "skipped: sft/seed1 failed"
    assert runs["ppo/seed2"] == "finished"


def test_runs_beside_each_other_wait_for_their_source_and_for_a_free_slot(tmp_path):
    study, slots = load_study(written(tmp_path, GOOD)), Trainer(count=2)
    assert run_study(study, slots) == 0
    order = [name for name, _ in slots.asked]
    assert order[:2] == ["sft/seed1", "sft/seed2"]
    assert len(order) == len(set(order)) == 8


def test_a_run_that_a_busy_cluster_refuses_waits_for_another_to_end(tmp_path):
    study = load_study(written(tmp_path, GOOD))
    busy = Trainer({"sft/seed2": f"{BUSY}no GPU is free"}, count=2)
    assert run_study(study, busy) == 0
    order = [name for name, _ in busy.asked]
    assert order[:3] == ["sft/seed1", "sft/seed2", "ppo/seed1"] or order.count("sft/seed2") == 2
    assert dict(busy.asked)["sft/seed2"] is True
    alone_there = Trainer({"sft/seed1": f"{BUSY}no GPU is free"})
    other = load_study(written(tmp_path, GOOD, "base: gp_l_debug\nseeds: [1]\n"))
    shutil.rmtree(study.folder)
    assert run_study(other, alone_there) == 1
    runs = json.loads((study.folder / "study.json").read_text())["runs"]
    assert runs["sft/seed1"] == f"failed: {BUSY}no GPU is free"


def test_an_arm_that_cannot_begin_here_is_named_before_any_begins(tmp_path, monkeypatch):
    asked = []

    def refuse(cfg, model_made):
        asked.append((cfg.cluster.root.rpartition("/")[2], cfg.name, model_made))
        if len(asked) > 4:
            raise PlacementError("too few GPUs")

    monkeypatch.setattr(run_module, "refuse_arm", refuse)
    study = load_study(written(tmp_path, GOOD))
    refuse_study(study)
    arms = {"sft": False, "ppo": True, "sweep_clip-0.1": True, "sweep_clip-0.2": True}
    assert asked == [(arm, "seed1", made) for arm, made in arms.items()]
    for seed in (1, 2):
        (study.folder / "sft" / f"seed{seed}").mkdir(parents=True)
    (study.folder / "ppo" / "seed1").mkdir(parents=True)
    with pytest.raises(PlacementError, match=r"^arms\.ppo: too few GPUs$"):
        refuse_study(study)
    assert asked[4:] == [("ppo", "seed2", True)]


def test_runs_on_one_machines_gpus_must_join_one_ray(tmp_path, monkeypatch):
    node = Node("local", "this machine", {"GPU": 2.0}, {"GPU": 2.0})
    monkeypatch.setattr("cluster.placement.nodes.local_node", lambda cpus, memory: node)
    study = load_study(written(tmp_path, GOOD))
    check_study(study, 1)
    with pytest.raises(ConfigError, match=r"--parallel 2: .* must join one Ray"):
        check_study(study, 2)


MATCH = """
  more: {from: sft, match: ppo, set: {sft.keep: []}}
  sft: {set: {sft.steps: 20, ppo.updates: 0}}
  ppo: {from: sft, set: {sft.steps: 0, ppo.updates: 3}}
"""
EQUAL = """
  equal: {from: sft, match: ten, set: {sft.steps: 0, ppo.clip: 0.3}}
  sft: {set: {sft.steps: 20, ppo.updates: 0}}
  ten: {from: sft, set: {sft.steps: 0, ppo.updates: 3, ppo.epochs: 1}}
  one: {from: sft, set: {ppo.updates: 2, ppo.clip: 0.3, sft.steps: 0}}
"""
HEAD = "base: gp_l_debug\nseeds: [1]\nset: {ppo.updates: 0, ppo.critic_warmup: 0}\n"


class Measured(Trainer):
    """Runs whose tokens are known: 320 a step of SFT, 960 played once for PPO's one epoch."""

    def finish(self, folder):
        super().finish(folder)
        write_model(folder / "model")
        common = {"tokens": 960, "action_tokens": 240, "time": 0, "elapsed_s": 0}
        sft = {"kind": "sft", "step": 20, "tokens_trained": 6400}
        ppo = {"kind": "ppo", "update": 3, "segments": 96, "episodes": 64, "steps": 2}
        records = [common | ppo] if folder.parent.name == "ppo" else [common | sft]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def test_a_matched_arm_comes_after_its_match_and_spends_as_many_flops(tmp_path, capsys):
    study = load_study(written(tmp_path, MATCH, HEAD))
    assert list(study.arms) == ["sft", "ppo", "more"]
    check_study(study)
    assert "more: from sft" in (printed := capsys.readouterr().out)
    assert "steps: as many as ppo's FLOPs buy" in printed
    assert run_study(study, Measured()) == 0
    begun = yaml.safe_load((study.folder / "more" / "seed1" / "config.yaml").read_text())
    # 960 tokens are learned from at 3 parts, played and scored at 1; a step learns from 320.
    assert begun["sft"]["steps"] == 960 * (3 + 2) / (320 * 3)
    assert run_study(study, Measured()) == 0  # and the study that was begun is the same one


class Updates(Trainer):
    """PPO that plays more tokens at each update; `ten` 14,400 in all, `one` 960 in the mean."""

    def finish(self, folder):
        super().finish(folder)
        write_model(folder / "model")
        updates, first = {"ten": (3, 2_400), "one": (2, 640)}.get(folder.parent.name, (0, 0))
        common = {"kind": "ppo", "episodes": 64, "steps": 2, "time": 0, "elapsed_s": 0}
        records = [
            common
            | {"update": n, "tokens": n * first}
            # of one length, a quarter of it answers
            | {"segments": n * first / 10, "action_tokens": n * first / 4}
            for n in range(1, updates + 1)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def test_a_matched_arm_of_ppo_takes_as_many_updates_as_the_flops_buy(tmp_path, capsys):
    """At the mean cost of the arm that differs in its updates alone, whatever its keys' order."""
    study = load_study(written(tmp_path, EQUAL, HEAD))
    assert list(study.arms) == ["sft", "ten", "one", "equal"]
    assert study.arms["equal"].needs == ["sft", "ten", "one"]
    check_study(study)
    assert "ppo.updates: as many as ten's FLOPs buy" in capsys.readouterr().out
    assert run_study(study, Updates()) == 0
    begun = yaml.safe_load((study.folder / "equal" / "seed1" / "config.yaml").read_text())
    assert (begun["ppo"]["updates"], begun["sft"]["steps"]) == (3 * 5, 0)
    assert run_study(study, Updates({"one/seed1": "failed: lost"})) == 0  # all have finished
    shutil.rmtree(study.folder)
    assert run_study(study, Updates({"one/seed1": "failed: lost"})) == 1
    runs = json.loads((study.folder / "study.json").read_text())["runs"]
    assert runs["equal/seed1"] == "skipped: one/seed1 failed"
    (study.folder / "ten" / "seed1" / "metrics.jsonl").write_text("")
    assert run_study(study, Trainer()) == 1
    runs = json.loads((study.folder / "study.json").read_text())["runs"]
    assert "those of ppo.updates in" in runs["equal/seed1"]


def test_a_matched_arm_needs_its_match_and_what_that_spent(tmp_path):
    study = load_study(written(tmp_path, MATCH, HEAD))
    assert run_study(study, Measured({"ppo/seed1": "failed: lost"})) == 1
    runs = json.loads((study.folder / "study.json").read_text())["runs"]
    assert runs["more/seed1"] == "skipped: ppo/seed1 failed"
    assert run_study(study, Measured()) == 0
    shutil.rmtree(study.folder)
    assert run_study(study, Trainer()) == 1  # without models nothing is sized
    runs = json.loads((study.folder / "study.json").read_text())["runs"]
    assert runs["more/seed1"].startswith("failed: arms.more.match=ppo: its FLOPs")


def test_an_arm_may_evaluate_the_initial_model_alone(tmp_path):
    arms = "  base: {set: {sft.steps: 0}}\n  sft: {set: {sft.steps: 5}}"
    study = load_study(written(tmp_path, arms, HEAD))
    run = study.run("base", 1)
    assert (run.sft.steps, run.ppo.updates) == (0, 0)
    with pytest.raises(ConfigError, match="leave nothing to train"):
        load("gp_l_debug", ["sft.steps=0", "ppo.updates=0"])


@pytest.mark.parametrize(
    "content", ["", "arms: 3", "arms: {base: [", "- x", "a: 2026-13-45", "[" * 2000, "a: \xff"]
)
def test_a_file_that_was_cut_off_is_named(tmp_path, content):
    study = load_study(written(tmp_path, GOOD))
    study.folder.mkdir(parents=True)
    (study.folder / "study.yaml").write_text(content, "latin-1")
    with pytest.raises(ConfigError, match=r"study\.yaml: .*must be as `cardinal study` wrote it"):
        run_study(study, Trainer())


PRIMARY = "primary:\n  - {arm: ppo, against: sft, variant: train}\n"


def test_primary_comparisons_are_kept_and_cannot_be_chosen_afterwards(tmp_path):
    head = HEAD.replace("seeds: [1]", "seeds: [1, 2, 3]")
    study = load_study(written(tmp_path, GOOD, head + PRIMARY))
    assert run_study(study, Trainer()) == 0
    kept = yaml.safe_load((study.folder / "study.yaml").read_text())["primary"]
    assert kept == [{"arm": "ppo", "against": "sft", "variant": "train", "measure": "success"}]
    assert run_study(study, Trainer()) == 0
    other = load_study(written(tmp_path, GOOD, head + PRIMARY.replace("sft", "start")))
    with pytest.raises(ConfigError, match="primary: differs from that of the study begun"):
        run_study(other, Trainer())
    none = load_study(written(tmp_path, GOOD, head))
    with pytest.raises(ConfigError, match="primary: differs"):
        run_study(none, Trainer())
    file = study.folder / "study.yaml"  # of a folder begun before there were any
    begun = yaml.safe_load(file.read_text())
    del begun["primary"]
    file.write_text(yaml.safe_dump(begun))
    assert run_study(study, Trainer()) == 0


def test_results_have_the_greedy_headline_and_every_decoding(tmp_path):
    class Decoded(Trainer):
        def finish(self, folder):
            super().finish(folder)
            file = folder / "metrics.jsonl"
            records = [json.loads(line) for line in file.read_text().splitlines()]
            records[-1] |= {
                "greedy": {"success": 0.75, "n": 8, "interval": [0.4, 0.9]},
                "sampled": {"success": 0.5},
                "pass_at": {"1": 0.5, "4": 0.8},
            }
            file.write_text("".join(json.dumps(r) + "\n" for r in records))

    study = load_study(written(tmp_path, "  sft: {set: {sft.steps: 5}}", HEAD))
    for trainer, row in (
        (Trainer(), ("0.5", "4", "0.2", "0.8", "", "", "", "")),
        (Decoded(), ("0.75", "8", "0.4", "0.9", "0.75", "0.5", "0.5", "0.8")),
    ):
        shutil.rmtree(study.folder, ignore_errors=True)
        assert run_study(study, trainer) == 0
        (found,) = csv.DictReader((study.folder / "results.csv").open())
        names = ("success", "n", "low", "high", "greedy", "sampled", "pass_at_1", "pass_at_4")
        assert tuple(found[name] for name in names) == row
        assert found["pass_at_16"] == ""


def test_a_folder_of_another_study_is_refused(tmp_path):
    run_study(load_study(written(tmp_path, GOOD)), Trainer())
    other = load_study(written(tmp_path, GOOD.replace("sft.steps=20", "sft.steps=30")))
    with pytest.raises(ConfigError, match=r"arms\.sft: differs from the one begun"):
        run_study(other, Trainer())


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ("  a: {from: b}", "arms.a.from=b: there is no such arm; there are a"),
        ("  a: {from: b}\n  b: {from: a}", "goes round in a circle"),
        ("  a: {set: {sft.stepz: 3}}", "arms.a: sft.stepz: there is no such key"),
        ("  a: {form: b}", "arms.a: there is no key form"),
        (GOOD.replace("at: 10", "at: 11"), "arms.ppo.at=11: arm sft keeps SFT steps"),
        (ARMS, "must hold keys and lists of values"),
        ("  a: {at: 3}", "arms.a.at=3: must be an SFT step of the arm that from names"),
        ("  ../a: {}", "must be a plain folder name"),
        ("  a: {match: b}", "arms.a.match=b: there is no such arm; there are a"),
        (MATCH.replace("from: sft, match", "match"), "begins from the base, ppo from sft; it"),
        (MATCH.replace("match: ppo", "match: more"), "arms.more.match=more: goes round"),
        (MATCH.replace("keep: []", "steps: 9"), "match=ppo: chooses sft.steps; leave it out"),
        (MATCH.replace("{sft.keep: []}", "{ppo.updates: 3}"), "ppo.updates must be 0"),
        (MATCH.replace("updates: 3", "updates: 0"), "match=ppo: ppo trains nothing"),
        (
            MATCH.replace("from: sft, ", "").replace("steps: 20", "steps: 0"),
            "no arm tells what one",
        ),
        (
            EQUAL.replace("clip: 0.3", "clip: 0.1", 1),
            "match=ten: no arm tells what one of ppo.updates",
        ),
        (
            EQUAL.replace("updates: 0", "updates: 0, sft.keep: [2]")
            .replace("match: ten", "match: ten, at: 2")
            .replace("ten: {", "ten: {at: 2, "),
            "match=ten: no arm tells what one of ppo.updates",
        ),
        (EQUAL.replace("0, ppo.clip", "0, ppo.updates: 3, ppo.clip"), "chooses ppo.updates; leave"),
        ("  a: {set: {sft.steps: 0}}\n  b: {from: a}", "arms.b.from=a: that arm trains no model"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path, arms, words):
    with pytest.raises(ConfigError) as error:
        load_study(written(tmp_path, arms, HEAD))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_an_environment_are_named_as_the_file_has_them(tmp_path):
    plan = load_study(written(tmp_path, "  a: {set: {env.settings.face_rul: ten}}", HEAD))
    with pytest.raises(ConfigError, match=r"^arms\.a: env\.settings\.face_rul: there is no such"):
        check_study(plan)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_studies_are_whole(file, capsys):
    assert cli.main(["study", file.stem, "--check"]) == 0
    assert "from sft" in capsys.readouterr().out
