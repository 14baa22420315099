"""submit, job and kuberay: what is passed on, and what is refused in one line."""

import pytest
import yaml

from cluster.cli import main
from cluster.launch import submit
from cluster.launch.pods import ManifestOptions


def test_variables_are_named_or_given(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(submit, "submit", lambda *given: seen.append(given) or 0)
    monkeypatch.setenv("MINE", "here")
    assert main(["submit", "gp_l", "--env", "MINE", "--env", "A=b=c", "seed=2"]) == 0
    assert seen == [("gp_l", ["seed=2"], None, "python", {"MINE": "here", "A": "b=c"}, True)]
    assert main(["submit", "gp_l", "--env", "NO_SUCH_VARIABLE"]) == 2
    assert "--env NO_SUCH_VARIABLE: is not set here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["name=Ünlü"], "Kubernetes wants a-z, 0-9"),
        (["name=" + "a" * 41], "at most 40 characters"),
        (["rollout.tensor_parallel=16"], "an engine stays inside a pod"),
        (["--secret", "HF_TOKEN=abc"], "must have the form NAME=SECRET/KEY"),
        (["--nodes", "gpu"], "--nodes gpu: must have the form NAME=VALUE"),
        (["--pod-size", "0"], "--pod-size 0: must be at least 1"),
        (["--spare", "-1"], "--spare -1: must be at least 0"),
        (["--memory", "0"], "--memory 0: must be at least 1"),
        (["--image", "x@sha256:12"], "--image x@sha256:12: its digest must be sha256: and 64"),
        (["--pull-secret", "My_Secret"], "--pull-secret My_Secret: must be a name of Kubernetes"),
        (["--spare", "1", "cluster.layout=colocated"], "--spare 1: with cluster.layout=colocated"),
        (["--patch", "/nowhere"], "--patch /nowhere: cannot be read"),
        (["ppo.updats=1"], "there is no such key"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, words, capsys):
    assert main(["kuberay", "gp_l", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert not said.out


def test_the_command_prints_yaml_and_nothing_else(capsys):
    given = ["--cpu", "--image", "me/cardinal:1", "--namespace", "lab", "--memory", "9", "seed=5"]
    assert main(["kuberay", "gp_l_debug", *given]) == 0
    configuration, found = yaml.safe_load_all(capsys.readouterr().out)
    assert "seed: 5" in configuration["data"]["config.yaml"]
    assert found["metadata"]["namespace"] == configuration["metadata"]["namespace"] == "lab"
    worker = found["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert worker["containers"][0]["image"] == "me/cardinal:1"
    assert worker["containers"][0]["resources"]["limits"]["memory"] == "10240Mi"


@pytest.mark.parametrize(("image", "noted"), [("me/x:1", True), ("me/x@sha256:DIGEST", False)])
def test_an_image_that_may_move_is_noted(image, noted, capsys):
    assert main(["kuberay", "gp_l_debug", "--image", image.replace("DIGEST", "ab" * 32)]) == 0
    assert ("--image me/x:1: is a tag" in capsys.readouterr().err) is noted


def test_models_of_the_hub_keep_their_name_and_others_lie_on_the_claim(capsys):
    for path, there in (
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("models/mine", "/mnt/cardinal/models/mine"),
        ("/data/mine", "/data/mine"),
    ):
        assert main(["kuberay", "gp_l", f"model.path={path}"]) == 0
        said = capsys.readouterr()
        (configuration, _) = yaml.safe_load_all(said.out)
        assert yaml.safe_load(configuration["data"]["config.yaml"])["model"]["path"] == there
        assert f"model.path={path}: is not on this machine" in said.err


def test_what_a_job_is_asked(monkeypatch):
    seen = []
    monkeypatch.setattr("cluster.launch.jobs.job", lambda *given: seen.append(given) or 3)
    assert main(["job", "logs", "x", "--address", "http://head:1"]) == 3
    assert main(["job", "stop", "y"]) == 3
    assert seen == [("logs", "x", "http://head:1"), ("stop", "y", None)]


def test_submit_may_leave_the_job_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(submit, "submit", lambda *given: seen.append(given) or 0)
    options = ["--no-follow", "--python", "/py", "--address", "http://head:1"]
    assert main(["submit", "gp_l", *options]) == 0
    assert seen == [("gp_l", [], "http://head:1", "/py", {}, False)]


def test_every_option_of_a_manifest_reaches_it(monkeypatch):
    seen = []
    monkeypatch.setattr("cluster.launch.kuberay.render", lambda cfg, o: seen.append(o) or "")
    given = ["--claim", "disk", "--pod-size", "4", "--nodes", "gpu=H100", "--nodes", "zone=a"]
    given += ["--secret", "HF_TOKEN=hub/token", "--spare", "2", "--cluster", "--memory", "9"]
    given += ["--pull-secret", "one", "--pull-secret", "two", "--priority-class", "high"]
    given += ["--patch", "a.yaml", "--patch", "b.yaml"]
    assert main(["kuberay", "gp_l", *given]) == 0
    (options,) = seen
    assert options == ManifestOptions(
        claim="disk",
        pod_size=4,
        nodes={"gpu": "H100", "zone": "a"},
        secrets={"HF_TOKEN": ("hub", "token")},
        memory=9 * 2**30,
        spare=2,
        cluster=True,
        pull_secrets=["one", "two"],
        priority_class="high",
        patches=["a.yaml", "b.yaml"],
    )
