"""`cardinal check`: what cannot be is said in one line, quickly, before anything starts."""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.environments import environments
from cluster.failures import PlacementError
from cluster.placement.memory import card_bytes
from cluster.placement.types import Node
from cluster.preflight import check as checking
from cluster.preflight import early
from cluster.preflight.check import check
from cluster.preflight.resolve import ResolvedRun, resolve
from cluster.preflight.show import show
from configs.load import ConfigError, load
from configs.paths import ROOT
from tests.support.effort import assert_starts
from tests.support.plugins import PLUGIN

NOWHERE = f"cluster.root={tempfile.gettempdir()}/nowhere"


def debug(*overrides):
    """Its run folder is taken by nothing, whatever runs this checkout has seen."""
    return load("gp_l_debug", [NOWHERE, *overrides])


def with_model(folder, *overrides):
    return debug(f"model.path={folder}", *overrides)


def free(monkeypatch, size):
    """Have this machine so many bytes of memory free."""
    for module in (checking, early):
        monkeypatch.setattr(module, "available_bytes", lambda: size)


def refused(cfg, *words):
    with pytest.raises(ConfigError) as error:
        check(cfg)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


SEES = ("env.settings.modality=vision", "env.settings.image_size=128")


def test_the_resolved_run(capsys):
    resolved = check(debug())
    assert resolved.longest_prompt.keys() == {"rollout", "eval/train", "eval/held_out"}
    assert sum(p.cpus for p in resolved.plan.places) == 2.5
    assert resolved.ends == ("<eos>",)
    show(resolved)
    shown = capsys.readouterr().out
    for word in ("rollout worker", "learner optimizer", "engine KV cache", "parameters"):
        assert word in shown


def test_a_context_too_short_for_the_prompt():
    cfg = debug("rollout.context_tokens=16", "rollout.answer_tokens=8")
    refused(cfg, "rollout.context_tokens=16: too short for variant eval/held_out", "at least 18")


def test_each_variant_leaves_room_for_an_answer(monkeypatch):
    free(monkeypatch, 2**40)
    longest = check(debug()).longest_prompt
    answer = max(longest.values())
    key = f"rollout.answer_tokens={answer}"
    check(debug(f"rollout.context_tokens={2 * answer}", key))
    refused(debug(f"rollout.context_tokens={2 * answer - 1}", key), f"at least {2 * answer}")


def test_the_models_class_is_checked(tiny_model, monkeypatch):
    asked = []
    monkeypatch.setattr(checking, "check_trainable", lambda cfg, **where: asked.append(where))
    check(with_model(tiny_model))
    assert asked == [{"gpu": False, "packages": True, "pictures": False}]


def test_a_picture_is_tried_where_the_run_shows_one(vision_model, monkeypatch):
    asked = []
    monkeypatch.setattr(checking, "check_trainable", lambda cfg, **where: asked.append(where))
    free(monkeypatch, 2**40)
    check(load("gp_vl", [NOWHERE, f"model.path={vision_model}", "rollout.context_tokens=1024"]))
    assert asked == [{"gpu": False, "packages": True, "pictures": True}]


def test_a_run_on_a_cluster_is_planned_there(monkeypatch):
    """The cluster's nodes count, not this machine's memory; they must share cluster.root."""
    free(monkeypatch, 0)
    total = {"CPU": 1.0, "memory": 2.0**40}
    nodes = [Node(name, name, total, total) for name in "abc"]
    monkeypatch.setattr(early, "reachable", lambda address: address)
    monkeypatch.setattr("cluster.placement.nodes.live_nodes", lambda address: nodes)
    found = check(debug("cluster.address=head:1"))
    assert len(found.plan.hosts()) == 3
    with pytest.raises(PlacementError, match=r"cluster\.root=runs: the run spans 3 nodes"):
        check(load("gp_l_debug", ["cluster.root=runs", "cluster.address=head:1"]))
    total["CPU"] = 4.0
    for key in ("cluster.channel=nccl", "cluster.layout=colocated"):
        refused(debug("cluster.address=head:1", key), f"{key} needs GPUs")


def test_an_environment_that_cannot_be_played(monkeypatch):
    def reset(self, **options):
        raise ZeroDivisionError("of its own")

    monkeypatch.setattr("envs.general_points.env.GeneralPoints.reset", reset)
    words = "env.settings: cardinal/GeneralPoints-v0 cannot be played: environment reset: "
    monkeypatch.setattr(checking, "resolve", lambda cfg: resolved)
    cfg = debug()
    resolved = ResolvedRun(cfg, environments(cfg), None, None)
    refused(cfg, f"{words}ZeroDivisionError: of its own")


def test_an_environment_of_others_is_played_with_deadlines(monkeypatch):
    class Renderer:
        def prompt(self, message, pictures):
            return SimpleNamespace(token_ids=[0] * len(message))

    def resolved(kind):
        return ResolvedRun(cfg, {"rollout": (PLUGIN, {"kind": kind})}, Renderer(), None)

    cfg = debug()
    (first,) = checking._check_prompts(resolved("good")).values()
    assert first.longest == len("5+5")
    assert 2**20 < first.memory < 2**28
    for kind, seconds, words in (
        ("number", 30.0, "the observation's message is the int 5; it must be a text"),
        ("stuck", 0.5, "took longer than cluster.env_deadline_s = 0.5"),
    ):
        cfg = debug(f"cluster.env_deadline_s={seconds}")
        monkeypatch.setattr(checking, "resolve", lambda cfg, kind=kind: resolved(kind))
        refused(cfg, f"env.settings: {PLUGIN} cannot be played: environment reset: {words}")


def test_processes_of_environments_take_memory(monkeypatch, tiny_model):
    """As much as one took while it was tried, times all that a run has."""
    monkeypatch.setattr(checking, "available_bytes", lambda: 2**40)
    keys = ("rollout.workers=2", "rollout.in_flight=16", "sft.steps=0", "eval.variants={a: {}}")
    keys += ("env.settings={}",)
    cfg = load("gp_l_debug", [NOWHERE, f"model.path={tiny_model}", f"env.id={PLUGIN}", *keys])
    found = check(cfg)
    own, rest = found.memory["environment processes"], sum(found.memory.values())
    assert 2 * 16 * 2**20 < own < 2 * 16 * 2**28
    rest -= own
    monkeypatch.setattr(checking, "available_bytes", lambda: rest + own // 2)
    refused(cfg, "too little memory", f"environment processes {own / 2**30:.1f}", "env_processes")
    fewer = replace(cfg, rollout=replace(cfg.rollout, env_processes=4))
    assert check(fewer).memory["environment processes"] < own / 2
    monkeypatch.setattr("cluster.placement.nodes.live_nodes", lambda address: nodes)
    nodes = [Node(n, n, {"CPU": 4.0, "memory": 3.0 * 2**30}, {"CPU": 4.0}) for n in "ab"]
    nodes = [replace(node, free=node.total) for node in nodes]
    there = replace(cfg.cluster, address="head:1", root="/nowhere")
    monkeypatch.setattr("cluster.preflight.early.reachable", lambda address: None)
    check(replace(cfg, cluster=there))
    monkeypatch.setattr(checking, "_play_apart", grown(checking._play_apart))
    with pytest.raises(PlacementError, match="memory"):
        check(replace(cfg, cluster=there))


def test_of_a_run_on_gpus_the_hosts_part_and_the_fullest_moment_of_a_card(monkeypatch):
    monkeypatch.setattr(checking, "available_bytes", lambda: 2**40)
    assert check(debug()).card is None
    monkeypatch.setattr("cluster.placement.nodes.live_nodes", lambda address: nodes)
    total = {"CPU": 8.0, "GPU": 2.0, "memory": 2.0**40}
    nodes = [Node("a", "a", total, total)]
    monkeypatch.setattr(early, "reachable", lambda address: address)
    cfg = debug("cluster.address=head:1")
    found = check(cfg)
    assert "weights and states on their way" in found.memory
    assert not found.memory.keys() & {"engine KV cache", "learner weights"}
    moment, parts = found.card
    sums = card_bytes(cfg, resolve(cfg).model)
    assert sum(parts.values()) == max(sums.values()) == sums[moment]


def grown(play):
    async def large(*arguments):
        steps, _ = await play(*arguments)
        return steps, 2**28

    return large


def test_too_little_memory(monkeypatch):
    free(monkeypatch, 2**30)
    words = ("too little memory", "this machine has 1.0 GiB free", "engine KV cache")
    refused(debug(), *words)
    monkeypatch.setattr(early, "available_bytes", lambda: 2**40)
    refused(debug(), *words)  # once the model's exact size is known


def test_a_taken_run_folder(tmp_path):
    cfg = debug("name=mine", f"cluster.root={tmp_path}")
    (tmp_path / "mine").mkdir()
    check(cfg)
    (tmp_path / "mine" / "config.yaml").write_text("seed: 0")
    refused(cfg, "name=mine: the run folder", "is taken", "cardinal resume")
    (tmp_path / "file").write_text("")
    refused(debug("name=file", f"cluster.root={tmp_path}"), "name=file: the run folder")


def test_a_run_with_pictures(capsys):
    resolved = check(debug(*SEES))
    assert resolved.parameters["vision"] > 10**5
    show(resolved)
    assert "vision" in capsys.readouterr().out


def test_pictures_for_a_model_of_text(tiny_model):
    refused(with_model(tiny_model, *SEES), "env.settings", "text alone", "vision-language")


def test_pictures_that_the_processor_would_shrink():
    refused(debug(SEES[0], "env.settings.image_size=160"), "160 x 160", "128")


def test_a_template_that_gives_pictures_no_token(vision_model, tmp_path):
    folder = tmp_path / "blind"
    shutil.copytree(vision_model, folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<image>", ""))
    refused(debug(f"model.path={folder}", *SEES), "0 of the picture token <image>", "1 pictures")


def test_an_expert_whose_answers_the_template_does_not_teach(tiny_model, tmp_path):
    folder = tmp_path / "thinks"
    shutil.copytree(tiny_model, folder)
    template = folder / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text.replace("{{ '<assistant>' }}", "{{ '<assistant><think>' }}"))
    cfg = debug(f"model.path={folder}")
    refused(cfg, "the expert's demonstration 1: message 1: chat templ")
    refused(cfg, "opens an answer with '<think>'")
    check(debug(f"model.path={folder}", "sft.steps=0"))


def test_an_expert_that_breaks(monkeypatch):
    def demonstrations(self, n, seed):
        raise ZeroDivisionError("of its own")

    monkeypatch.setattr("envs.general_points.env.GeneralPoints.demonstrations", demonstrations)
    refused(
        debug(),
        "env.settings: cardinal/GeneralPoints-v0 cannot be played: environment demonstrations: "
        "ZeroDivisionError: of its own",
    )


def test_it_answers_in_seconds_and_imports_neither_engine_nor_torch():
    code = (
        "import sys; from cluster.cli import main;"
        f"code = main(['check', 'gp_l', {NOWHERE!r}]);"
        "print(code, [m for m in ('ray', 'vllm', 'deepspeed', 'torch') if m in sys.modules])"
    )

    def answer():
        found = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=500
        )
        assert found.stdout.splitlines()[-1] == "0 []", found.stderr

    assert_starts(answer, 40)


def test_demonstrations_that_cannot_be_used(tmp_path, capsys, monkeypatch):
    free(monkeypatch, 2**40)
    cfg = debug(f"sft.data={tmp_path}")
    refused(cfg, "sft.data=", "*.parquet")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    refused(cfg, "a.parquet: has no column messages or conversations; it has text")
    one = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    pq.write_table(pa.table({"messages": [one]}), tmp_path / "a.parquet")
    refused(cfg, "holds 1 demonstrations, sft.batch_size=32")
    pq.write_table(pa.table({"messages": [one] * 31}), tmp_path / "b.parquet")
    show(check(cfg))
    shown = capsys.readouterr().out
    assert "32 demonstrations in 2 files, all read; of 9 rendered the longest has " in shown
    assert "dropped" not in shown
    (tmp_path / "README.md").touch()
    show(check(debug(f"sft.data={tmp_path}", "sft.max_tokens=2")))
    shown = capsys.readouterr().out
    assert "9 over sft.max_tokens=2 and dropped; not read: README.md\n" in shown
    (tmp_path / "b.parquet").write_bytes(b"nothing")
    refused(cfg, f"sft.data={tmp_path}: b.parquet: cannot be read as Parquet")


def test_a_release_that_cannot_be_used(tmp_path, monkeypatch):
    free(monkeypatch, 2**40)
    file = tmp_path / "a.json"
    cfg = debug(f"sft.data={file}")
    refused(cfg, f"sft.data={file}: there is no such file")
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    file.write_text(json.dumps([{"conversations": turns}] * 31))
    refused(cfg, f"sft.data={file}: holds 31 demonstrations, sft.batch_size=32")
    file.write_text(json.dumps([{"conversations": 3}] + [{"conversations": turns}] * 31))
    refused(cfg, f"sft.data={file}: row 1: conversations: is of type int")
    file.write_text(json.dumps([{"conversations": turns}] * 32))
    check(cfg)


def test_places_and_room_are_those_of_the_machine_that_runs_it(monkeypatch):
    """Not of one that only sends it to a job server."""
    asked = []
    monkeypatch.setattr(early, "check_places", lambda cfg: asked.append("places"))
    monkeypatch.setattr(checking, "check_room", lambda cfg, model, local: asked.append(local))
    total = {"CPU": 8.0, "memory": 2.0**40}
    nodes = [Node("a", "a", total, total)]
    monkeypatch.setattr(early, "reachable", lambda address: address)
    monkeypatch.setattr("cluster.placement.nodes.live_nodes", lambda address: nodes)
    for address, seen in (("head:1", ["places", False]), ("http://head:1", []), ("", None)):
        asked.clear()
        check(debug(*[f"cluster.address={address}"] * bool(address)))
        assert asked == (["places", True] if seen is None else seen)


def test_the_end_of_a_run_is_tried(tiny_model, monkeypatch):
    def refuse(path, stop_ids):
        raise ConfigError(f"of the end of {path}, {len(stop_ids)} tokens")

    monkeypatch.setattr(checking, "check_export", refuse)
    refused(with_model(tiny_model), f"of the end of {tiny_model}, 1 tokens")
    check(debug())


def test_expert_demonstrations_that_the_model_cannot_read(monkeypatch):
    free(monkeypatch, 2**40)
    long = ("env.settings.trajectories=suboptimal", "env.settings.verify_iter=5")
    refused(
        debug(*long, "rollout.context_tokens=40"), "the expert's demonstration", "reads 40; sft."
    )
    check(debug(*long, "rollout.context_tokens=40", "sft.max_tokens=40"))
