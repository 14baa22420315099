"""Manifests: valid against KubeRay's own schemas, and holding what the run needs."""

import copy
import json

import pytest
import yaml

from cluster.cli import main
from cluster.launch import kuberay
from cluster.launch.kuberay import Options, manifest, render
from cluster.placement.plan import Node, plan
from cluster.preflight.check import model_size, process_needs
from configs.load import FOLDER, ConfigError, load
from configs.model_folder import ModelSize
from tests.end_to_end.test_train import ROOT

SCHEMAS = ROOT.parent / "shared" / "kuberay"
CONFIGS = sorted(p.stem for p in FOLDER.glob("*.yaml"))
GIB = 2**30


def strict(schema):
    """The same schema that takes no field beside those that it names; Kubernetes drops them."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    named = isinstance(found.get("properties"), dict) and found.get("type") == "object"
    if named and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


@pytest.fixture(scope="module")
def validators():
    """By kind."""
    jsonschema = pytest.importorskip("jsonschema")
    found = {}
    for kind in ("RayJob", "RayCluster"):
        file = SCHEMAS / f"{kind.lower()}.v1.schema.json"
        if not file.is_file():
            pytest.skip(f"KubeRay's schemas are not at {SCHEMAS}")
        found[kind] = jsonschema.Draft202012Validator(strict(json.loads(file.read_text())))
    return found


def errors(validators, document):
    found = validators[document["kind"]].iter_errors(document)
    return [f"{'.'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in found]


def pods(cluster):
    """(name, pod spec) of the head and of each group."""
    groups = [("head", cluster["headGroupSpec"])]
    groups += [(g["groupName"], g) for g in cluster["workerGroupSpecs"]]
    return {name: group["template"]["spec"] for name, group in groups}


def job(*overrides, config="gp_l", **options):
    _, found = manifest(load(config, overrides), Options(**options))
    return found


@pytest.mark.parametrize("options", [
    Options(),
    Options(gpus=False, namespace="here"),
    Options(cluster=True, secrets={"HF_TOKEN": ("hub", "token")}, nodes={"gpu": "H100"}),
], ids=["gpu", "cpu", "cluster"])  # fmt: skip
@pytest.mark.parametrize("config", CONFIGS)
def test_every_shipped_configuration_is_a_valid_manifest(config, options, validators):
    documents = list(yaml.safe_load_all(render(load(config), options)))
    kinds = ["RayCluster"] if options.cluster else ["ConfigMap", "RayJob"]
    assert [d["kind"] for d in documents] == kinds
    assert errors(validators, documents[-1]) == []


def test_the_schemas_refuse_what_is_wrong(validators):
    good = job()
    for path, value in (
        (("rayClusterSpec", "headGroupSpec", "rayStartParams"), {"num-cpus": 0}),  # no text
        (("rayClusterSpec", "workerGroupSpecs", 0, "maxReplica"), 3),  # no such field
        (("backoffLimit",), "two"),
    ):
        wrong = copy.deepcopy(good)
        at = wrong["spec"]
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
        assert errors(validators, wrong), path


def test_the_head_has_no_work_and_runs_the_configuration():
    configuration, found = manifest(load("gp_l", ["name=gp_l.7", "ppo.updates=9"]), Options())
    spec = found["spec"]
    head = spec["rayClusterSpec"]["headGroupSpec"]
    assert found["metadata"]["name"] == "gp-l-7"
    assert head["rayStartParams"]["num-cpus"] == head["rayStartParams"]["num-gpus"] == "0"
    assert spec["entrypoint"] == "python -m cluster.cli train /etc/cardinal/config.yaml --resume"
    mounts = head["template"]["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "config", "mountPath": "/etc/cardinal"} in mounts
    volume = next(v for v in head["template"]["spec"]["volumes"] if v["name"] == "config")
    assert volume["configMap"]["name"] == configuration["metadata"]["name"] == "gp-l-7-config"


def test_the_configuration_that_runs_there_is_the_one_given(tmp_path):
    cfg = load("smollm2", ["name=mine", "cluster.address=http://x:1", "sft.data=/data/x"])
    (configuration, _) = yaml.safe_load_all(render(cfg, Options()))
    (tmp_path / "config.yaml").write_text(configuration["data"]["config.yaml"])
    there = load(tmp_path / "config.yaml")
    assert there.cluster.address is None
    assert there.cluster.root == "/mnt/cardinal/runs"
    assert there.model.path == "/mnt/cardinal/models/smollm2-135m"
    assert there.sft.data == "/data/x"
    assert there.name == "mine"
    assert there.ppo == cfg.ppo


def test_every_pod_has_storage_shared_memory_probes_and_no_root():
    cluster = job(claim="disk")["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    for name, pod in pods(cluster).items():
        (container,) = pod["containers"]
        mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
        volumes = {v["name"]: v for v in pod["volumes"]}
        assert volumes[mounts["/mnt/cardinal"]]["persistentVolumeClaim"]["claimName"] == "disk"
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        path = "/api/gcs_healthz" if name == "head" else "/api/local_raylet_healthz"
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["path"] == path
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize(
    ("workers", "tensor", "ranks", "expected"),
    [  # (pods, GPUs each) of rollout and of learner
        (1, 1, 1, ((1, 1), (1, 1))),
        (4, 2, 8, ((1, 8), (1, 8))),
        (9, 1, 4, ((2, 5), (1, 4))),
        (3, 4, 12, ((2, 8), (2, 6))),
    ],
)
def test_pods_hold_the_run(workers, tensor, ranks, expected):
    found = job(f"rollout.workers={workers}", f"rollout.tensor_parallel={tensor}",
                f"learner.ranks={ranks}", "sft.batch_size=120", spare=2)  # fmt: skip
    for group, (count, gpus) in zip(
        found["spec"]["rayClusterSpec"]["workerGroupSpecs"], expected, strict=True
    ):
        amounts = group["template"]["spec"]["containers"][0]["resources"]
        assert amounts["requests"] == amounts["limits"]
        assert amounts["limits"]["nvidia.com/gpu"] == gpus
        assert group["replicas"] == group["minReplicas"] == count
        assert group["maxReplicas"] == count + (2 if group["groupName"] == "rollout" else 0)
        assert group["template"]["spec"]["tolerations"]


@pytest.mark.parametrize("gpus", [True, False], ids=["gpu", "cpu"])
@pytest.mark.parametrize("keys", [
    (),
    ("rollout.workers=9", "learner.ranks=12"),
    ("rollout.workers=3", "rollout.threads=2", "learner.cpus=0.5", "learner.ranks=2"),
    ("rollout.workers=3", "rollout.tensor_parallel=4", "learner.ranks=10"),
    ("rollout.workers=6", "rollout.tensor_parallel=2", "learner.ranks=12",
     "cluster.layout=colocated"),
])  # fmt: skip
def test_the_placement_fits_the_pods(keys, gpus):
    """What the run itself computes on a cluster of just these pods."""
    cfg = load("gp_l", ["sft.batch_size=120", *keys])
    if not gpus and ("parallel" in str(keys) or "colocated" in str(keys)):
        pytest.skip("needs GPUs")
    options = Options(gpus=gpus)
    nodes = [Node("head", "head", {"memory": 8.0 * GIB}, {"memory": 8.0 * GIB})]
    for pods in kuberay.worker_pods(cfg, options):
        total = {"CPU": pods.cpus, "GPU": pods.gpus, "memory": pods.memory,
                 "object_store_memory": pods.shm}  # fmt: skip
        names = [f"{pods.name}-{i}" for i in range(pods.count)]
        nodes += [Node(name, name, total, total) for name in names]
    size = model_size(cfg, ModelSize({"all": 1_100_000}, 4, 128, 512, None), range(300))
    placed = plan(cfg, nodes, process_needs(cfg, size, nodes))
    assert {n.name.split("-")[0] for n in placed.hosts()} == {
        n.name.split("-")[0] for n in nodes[1:]
    }


def test_colocated_engines_and_ranks_share_pods():
    keys = ("cluster.layout=colocated", "rollout.workers=6", "rollout.tensor_parallel=2",
            "learner.ranks=12", "sft.batch_size=120")  # fmt: skip
    (pods,) = kuberay.worker_pods(load("gp_l", keys), Options())
    assert (pods.name, pods.count, pods.gpus) == ("colocated", 2, 6)
    assert pods.cpus == 3 * (2 * 1 + 1) + 1
    with pytest.raises(ConfigError, match="layout=colocated needs GPUs"):
        kuberay.worker_pods(load("gp_l", keys), Options(gpus=False))


def test_an_offloaded_optimizer_is_counted_in_the_hosts_memory():
    keys = ("model.init.hidden=1024", "model.init.heads=8", "model.init.layers=24",
            "learner.zero_stage=1")  # fmt: skip
    there, here = (
        kuberay.host_bytes(load("gp_l", [*keys, f"learner.offload={value}"]), Options())
        for value in ("false", "true")
    )
    assert here[1] - there[1] > GIB
    assert here[0] == there[0]


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


def test_pods_without_gpus_ask_for_none():
    cluster = job("learner.threads=3", gpus=False)["spec"]["rayClusterSpec"]
    for name, pod in pods(cluster).items():
        limits = pod["containers"][0]["resources"]["limits"]
        assert "nvidia.com/gpu" not in limits
        assert "nodeSelector" not in pod
        assert limits["cpu"] == {"head": 2, "rollout": 2, "learner": 4}[name]
        assert pod["containers"][0]["image"] == "cardinal:cpu"


def test_memory_grows_with_the_model_and_holds_the_object_store():
    small = kuberay.worker_pods(load("gp_l"), Options(gpus=False))
    large = kuberay.worker_pods(
        load("gp_l", ["model.init.hidden=1024", "model.init.heads=8", "model.init.layers=24"]),
        Options(gpus=False),
    )
    for before, after in zip(small, large, strict=True):
        assert after.memory - before.memory > GIB
        assert after.shm > before.shm
        assert before.memory > before.shm >= 0.5 * GIB
    given = kuberay.worker_pods(load("gp_l"), Options(memory=7 * GIB))
    assert [p.memory for p in given] == [7 * GIB] * 2


def test_secrets_are_referred_to():
    found = job(secrets=kuberay.secrets(["HF_TOKEN=hub/token"]))
    for pod in pods(found["spec"]["rayClusterSpec"]).values():
        assert {
            "name": "HF_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}},
        } in pod["containers"][0]["env"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["name=Ünlü"], "Kubernetes wants a-z, 0-9"),
        (["name=" + "a" * 41], "at most 40 characters"),
        (["rollout.tensor_parallel=16"], "an engine stays inside a pod"),
        (["--secret", "HF_TOKEN=abc"], "must have the form NAME=SECRET/KEY"),
        (["--nodes", "gpu"], "--nodes gpu: must have the form NAME=VALUE"),
        (["--pod-size", "0"], "--pod-size 0: must be at least 1"),
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


def test_an_unreadable_configuration_name_is_refused():
    with pytest.raises(ConfigError):
        kuberay.object_name("---")
