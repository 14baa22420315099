"""What is refused within a second of CPU, and what each command asks before its imports."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from cluster.checkpoints.cursor import Cursor
from cluster.demonstrations.fingerprint import record_data
from cluster.failures import PlacementError
from cluster.preflight import early
from cluster.preflight.early import refuse_arm, refuse_evaluation, refuse_new, refuse_resume
from cluster.run.lease import Lease
from configs.load import ConfigError, dump, load
from configs.paths import ROOT
from tests.support.effort import assert_starts
from tests.support.learner import save_llama

HEAVY = ("torch", "transformers", "ray", "vllm", "deepspeed", "scipy", "matplotlib")
MOST_STARTS = 15  # some 1.5 s
RUN_ONE = """
import json, sys
from cluster.cli import main
heavy, command = json.loads(sys.argv[1])
code = main(command)
print(code, [name for name in heavy if name in sys.modules])
"""


def data_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_text("{}\n")
    return folder


def begun(tmp_path, *overrides):
    """A run folder whose configuration has these overrides."""
    run = tmp_path / "begun"
    run.mkdir()
    cfg = load("gp_l_debug", ["name=begun", f"cluster.root={tmp_path}", *overrides])
    (run / "config.yaml").write_text(dump(cfg))
    return run


def without_tokenizer(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def model_with(tmp_path, changed, template="{{ messages }}"):
    """A folder of a tiny Llama, whose config.json has other values; its path."""
    folder = save_llama(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"max_position_embeddings": 4096} | changed)
    )
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


MODELS = {  # the fault: config.json, chat template, words
    "unknown model": ({"model_type": "lama"}, "{{ messages }}", "its model_type is 'lama'"),
    "no causal model": (
        {"model_type": "bert", "architectures": ["BertModel"]},
        "{{ messages }}",
        "is BertModel, no causal LM",
    ),
    "too few positions": ({"max_position_embeddings": 16}, "{{ messages }}", "knows 16 positions"),
    "other weights": ({"hidden_size": 64}, "{{ messages }}", "is 48 x 32 and must be 48 x 64"),
    "fewer layers": ({"num_hidden_layers": 3}, "{{ messages }}", "they are of 2 layers"),
    "unsynced": (
        {"architectures": ["PhiForCausalLM"]},
        "{{ messages }}",
        "of whose weights engines would miss some",
    ),
    "no chat template": ({}, "", "has no chat template"),
    "broken chat template": ({}, "{% for m in messages %}", "chat template cannot be read"),
}


def command_of(kind, tmp_path):
    """A command line that is refused, and the words of its sentence."""
    new = ["gp_l", f"cluster.root={tmp_path}"]
    if kind in MODELS:
        changed, template, words = MODELS[kind]
        return ["check", *new, f"model.path={model_with(tmp_path, changed, template)}"], words
    if kind == "resume whose data changed":
        data = data_folder(tmp_path)
        run = begun(tmp_path, f"sft.data={data}")
        record_data(str(data), run)
        Cursor("sft", step=1).save(run / "checkpoints", keep=1)
        (data / "a.jsonl").write_text("{}\n{}\n")
        return ["resume", str(run)], "a.jsonl had 3 bytes when the run began, and has 6"
    if kind == "eval beside a run":
        (begun(tmp_path) / "model").mkdir()
        return ["eval", str(tmp_path / "begun")], "the run folder is in use by process"
    if kind == "study without data":
        file = tmp_path / "mine.yaml"
        arms = "arms: {one: {set: {sft.data: /nowhere}}}"
        file.write_text(f"base: gp_l\nseeds: [1]\nroot: {tmp_path}\n{arms}\n")
        return ["study", str(file)], "arms.one: sft.data=/nowhere: there is no such file or folder"
    return {
        "no data": (["check", *new, "sft.data=/nowhere"], "sft.data=/nowhere: there is no such"),
        "no tokenizer": (
            ["check", *new, f"model.path={without_tokenizer(tmp_path)}"],
            "holds no tokenizer, neither tokenizer.json nor a vocabulary",
        ),
        "too little memory": (
            ["train", *new, "rollout.kv_cache_gib=100000"],
            "too little memory: the run needs 100",
        ),
        "no GPUs": (
            ["train", *new, "cluster.layout=colocated"],
            "cluster.layout=colocated needs GPUs, and there are none here",
        ),
        "nobody answers": (
            ["check", *new, "cluster.address=127.0.0.1:9"],
            "cluster.address=127.0.0.1:9: nothing answers there",
        ),
        "no job server": (
            ["submit", "gp_l", "cluster.root=/runs", "--address", "http://127.0.0.1:9"],
            "no Ray job server answers at http://127.0.0.1:9",
        ),
    }[kind]


KINDS = [
    "no data",
    "no tokenizer",
    "too little memory",
    "no GPUs",
    "nobody answers",
    "no job server",
    "resume whose data changed",
    "eval beside a run",
    "study without data",
    *MODELS,
]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_refused_within_a_second_of_cpu(kind, tmp_path):
    command, words = command_of(kind, tmp_path)
    code = 75 if kind == "eval beside a run" else 2
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        environment.pop(name, None)

    def refuse():
        done = subprocess.run(
            [sys.executable, "-c", RUN_ONE, json.dumps([HEAVY, command])],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout.splitlines()[-1] == f"{code} []"

    with Lease(tmp_path / "begun") if kind == "eval beside a run" else tmp_path:
        assert_starts(refuse, MOST_STARTS)


@pytest.fixture
def roomy(monkeypatch):
    """A machine without GPUs on which all would fit."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(early, "available_bytes", lambda: 2**40)


def new(tmp_path, *overrides):
    return load("gp_l_debug", [f"cluster.root={tmp_path}", *overrides])


def refused(call, *words):
    with pytest.raises((ConfigError, PlacementError)) as error:
        call()
    for word in words:
        assert word in str(error.value)


def test_a_run_that_may_begin_is_not_refused(roomy, tmp_path, tiny_model):
    refuse_new(new(tmp_path))
    refuse_new(new(tmp_path, f"model.path={tiny_model}", f"sft.data={data_folder(tmp_path)}"))
    refuse_new(new(tmp_path, "model.path=somebody/something"))
    refuse_new(new(tmp_path, "sft.steps=0", "sft.data=/nowhere"))
    refuse_new(new(tmp_path, "model.lora_rank=4", "model.lora_targets=[fc1]"))


def test_the_folder_its_model_and_its_data_are_asked_for(roomy, tmp_path, tiny_model):
    (tmp_path / "taken").write_text("")
    refused(lambda: refuse_new(new(tmp_path, "name=taken")), "name=taken: the run folder")
    refused(lambda: refuse_new(new(tmp_path, "model.path=/none")), "model.path=/none: there is no")
    both = ("sft.data=/none", "model.path=/nowhere")
    refused(lambda: refuse_new(new(tmp_path, *both)), "model.path=/nowhere")
    layout = "cluster.layout=colocated"
    refused(lambda: refuse_new(new(tmp_path, layout)), f"{layout} needs GPUs")
    refused(lambda: refuse_new(new("/proc/x")), "cluster.root=/proc/x: cannot be written to")
    wrong = (f"model.path={tiny_model}", "model.lora_rank=4", "model.lora_targets=[q_prj]")
    refused(lambda: refuse_new(new(tmp_path, *wrong)), "model.lora_targets=q_prj", "q_proj")


@pytest.mark.parametrize("folder", [None, SimpleNamespace(origin=None)])
def test_a_tracker_needs_its_package(roomy, tmp_path, monkeypatch, folder):
    """A folder of its name, as W&B leaves one, is no package."""
    packages = {"wandb": folder, "mlflow": folder}
    finder = SimpleNamespace(util=SimpleNamespace(find_spec=packages.get))
    monkeypatch.setattr(early, "importlib", finder)
    refused(
        lambda: refuse_new(new(tmp_path, "tracker=wandb")),
        "tracker=wandb: its package wandb is not installed; `pip install wandb`, or tracker=none",
    )
    run = begun(tmp_path, "tracker=mlflow")
    cfg = load(run / "config.yaml")
    refused(lambda: refuse_resume(cfg, run), "tracker=mlflow: its package mlflow is not")
    early._refuse(cfg, None, None, learn=False)  # an evaluation sends nothing
    packages["wandb"] = SimpleNamespace(origin="/there/__init__.py")
    refuse_new(new(tmp_path, "tracker=wandb"))


def test_a_job_is_not_held_to_this_machine(roomy, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(early, "reachable", asked.append)
    monkeypatch.setattr(early, "available_bytes", lambda: 0)
    refuse_new(new("/proc/x", "cluster.address=http://head:1", "cluster.layout=colocated"))
    refused(lambda: refuse_new(new("/proc/x", "cluster.address=head:1")), "cluster.root=/proc/x")
    refuse_new(new(tmp_path, "cluster.address=head:1"))
    assert asked == ["http://head:1", "head:1"]


def test_the_least_that_a_model_needs_counts(roomy, tmp_path, tiny_model, monkeypatch):
    sizes = []
    monkeypatch.setattr(early, "plan_here", lambda cfg, size, *_: sizes.append(size))
    refuse_new(new(tmp_path, "model.init.layers=9"))
    refuse_new(new(tmp_path, f"model.path={tiny_model}"))
    refuse_new(new(tmp_path, "model.path=somebody/something"))
    made, given = sizes
    assert (made.layers, made.vocabulary) == (9, 0)
    assert sum(given.parameters.values()) > 10**5


def test_a_resume_needs_only_what_is_left_to_do(roomy, tmp_path):
    data = data_folder(tmp_path)
    run = begun(tmp_path, f"sft.data={data}")
    cfg = load(run / "config.yaml")
    refuse_resume(cfg, run)  # of a run that recorded nothing
    data.rename(tmp_path / "away")
    refused(lambda: refuse_resume(cfg, run), f"sft.data={data}: there is no such file")
    (tmp_path / "away").rename(data)
    record_data(str(data), run)
    Cursor("sft", step=1).save(run / "checkpoints", keep=1)
    refuse_resume(cfg, run)
    (data / "a.jsonl").write_text("[]\n")
    refused(lambda: refuse_resume(cfg, run), "a.jsonl has other content than when the run began")
    (data / "a.jsonl").unlink()
    refused(lambda: refuse_resume(cfg, run), f"sft.data={data}: the folder holds no *.parquet")
    Cursor("ppo").save(run / "checkpoints", keep=1)
    refuse_resume(cfg, run)
    with Lease(run):
        refused(lambda: refuse_resume(cfg, run), "is in use by process")


def test_an_evaluation_needs_no_learner_no_data_and_an_idle_folder(roomy, tmp_path, monkeypatch):
    run = begun(tmp_path, "sft.data=/nowhere")
    cfg = load(run / "config.yaml", ["learner.ranks=4"])
    size = early.tiny_size(cfg)
    monkeypatch.setattr(early, "weights_size", lambda model: size)
    model = model_with(tmp_path, {"architectures": ["PhiForCausalLM"]})
    asked = []
    monkeypatch.setattr(early, "plan_here", lambda *given: asked.append(given))
    refuse_evaluation(cfg, run, model)
    ((_, planned, _, learn),) = asked
    assert (planned, learn) == (size, False)
    with Lease(run):
        refused(lambda: refuse_evaluation(cfg, run, model), "is in use by process")


def test_a_studys_later_arm_has_no_model_yet(roomy, tmp_path):
    cfg = new(tmp_path, "model.path=/nowhere")
    refuse_arm(cfg, model_made=True)
    refused(lambda: refuse_arm(cfg, model_made=False), "model.path=/nowhere")
    data = new(tmp_path, "sft.data=/none")
    refused(lambda: refuse_arm(data, model_made=True), "sft.data=/none: there is no")
