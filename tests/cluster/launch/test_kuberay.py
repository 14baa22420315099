"""Manifests: valid against KubeRay's own schemas, and holding what the run needs."""

import copy
import json

import pytest
import yaml

from cluster.launch.kuberay import manifest, object_name, render
from cluster.launch.pods import ManifestOptions
from configs.load import FOLDER, ConfigError, load
from configs.paths import ROOT

SCHEMAS = ROOT.parent / "shared" / "kuberay"

CONFIGS = sorted(p.stem for p in FOLDER.glob("*.yaml"))


def strict(schema):
    """The same schema that takes no field besides those that it names; Kubernetes drops them."""
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
    _, found = manifest(load(config, overrides), ManifestOptions(**options))
    return found


def test_a_job_is_submitted_by_a_pod_like_all_others():
    found = job(priority_class="research", image="mine:1")["spec"]["submitterPodTemplate"]["spec"]
    assert found["priorityClassName"] == "research"
    assert found["containers"][0]["image"] == "mine:1"
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize(
    "options",
    [
        ManifestOptions(),
        ManifestOptions(gpus=False, namespace="here"),
        ManifestOptions(
            cluster=True, secrets={"HF_TOKEN": ("hub", "token")}, nodes={"gpu": "H100"}
        ),
    ],
    ids=["gpu", "cpu", "cluster"],
)
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


@pytest.mark.parametrize(("grace", "seconds"), [(30, 60), (240.5, 271)])
def test_a_run_is_given_its_time_for_a_last_checkpoint(grace, seconds):
    cfg = load("gp_l", [f"cluster.grace_s={grace}"])
    _, job = manifest(cfg, ManifestOptions())
    spec = job["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    periods = {g["template"]["spec"]["terminationGracePeriodSeconds"] for g in groups}
    assert periods == {seconds}
    variables = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]
    assert variables["RAY_JOB_STOP_WAIT_TIME_S"] == str(seconds)


def test_the_head_has_no_work_and_runs_the_configuration():
    configuration, found = manifest(
        load("gp_l", ["name=gp_l.7", "ppo.updates=9"]), ManifestOptions()
    )
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
    (configuration, _) = yaml.safe_load_all(render(cfg, ManifestOptions()))
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
    found = job(
        f"rollout.workers={workers}",
        f"rollout.tensor_parallel={tensor}",
        f"learner.ranks={ranks}",
        "sft.batch_size=120",
    )
    for group, (count, gpus) in zip(
        found["spec"]["rayClusterSpec"]["workerGroupSpecs"], expected, strict=True
    ):
        amounts = group["template"]["spec"]["containers"][0]["resources"]
        assert amounts["requests"]["nvidia.com/gpu"] == amounts["limits"]["nvidia.com/gpu"] == gpus
        assert amounts["requests"]["cpu"] >= 4 * gpus
        assert "cpu" not in amounts["limits"]
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == count
        assert group["template"]["spec"]["tolerations"]


def test_pods_without_gpus_ask_for_none():
    cluster = job("learner.threads=3", gpus=False)["spec"]["rayClusterSpec"]
    for name, pod in pods(cluster).items():
        limits = pod["containers"][0]["resources"]["limits"]
        assert "nvidia.com/gpu" not in limits
        assert "nodeSelector" not in pod
        assert limits["cpu"] == {"head": 2, "rollout": 2, "learner": 4}[name]
        assert pod["containers"][0]["image"] == "cardinal:cpu"


def test_secrets_are_referred_to():
    found = job(secrets={"HF_TOKEN": ("hub", "token")})
    for pod in pods(found["spec"]["rayClusterSpec"]).values():
        assert {
            "name": "HF_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}},
        } in pod["containers"][0]["env"]


OVERLAYS = ROOT / "examples" / "kuberay"


@pytest.mark.parametrize("cluster", [False, True], ids=["job", "cluster"])
@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("disaggregated", ["kueue"]),
        ("colocated", ["kueue"]),
        ("disaggregated", ["rdma", "rdma-learner"]),
        ("colocated", ["rdma"]),
    ],
)
def test_each_shipped_overlay_fits_every_shape_and_is_valid(validators, layout, names, cluster):
    pytest.importorskip("jsonpatch")
    assert {"kueue", "rdma", "rdma-learner"} == {file.stem for file in OVERLAYS.glob("*.yaml")}
    cfg = load("gp_l", [f"cluster.layout={layout}", "ppo.max_staleness=0"])
    files = [str(OVERLAYS / f"{name}.yaml") for name in names]
    *_, patched = yaml.safe_load_all(render(cfg, ManifestOptions(cluster=cluster, patches=files)))
    *_, plain = yaml.safe_load_all(render(cfg, ManifestOptions(cluster=cluster)))
    assert errors(validators, patched) == []
    assert patched != plain
    if names == ["kueue"]:
        return
    spec = patched["spec"] if cluster else patched["spec"]["rayClusterSpec"]
    for name, pod in pods(spec).items():
        (container,) = pod["containers"]
        asked = [container["resources"][kind] for kind in ("requests", "limits")]
        assert ["rdma/hca_shared_devices_a" in each for each in asked] == [name != "head"] * 2
        variables = {each["name"] for each in container["env"]}
        assert ({"NCCL_IB_HCA", "NCCL_SOCKET_IFNAME"} <= variables) is (name != "head")


def test_of_a_cluster_the_paths_of_a_job_alone_are_read_otherwise(tmp_path):
    pytest.importorskip("jsonpatch")
    group = "workerGroupSpecs/1"
    operations = [
        {"op": "copy", "from": f"/spec/rayClusterSpec/{group}", "path": f"/spec/{group}"},
        {"op": "add", "path": "/metadata/annotations", "value": {"x": "/spec/rayClusterSpec"}},
        {
            "op": "replace",
            "path": "/spec/rayClusterSpec/rayVersion",
            "value": "/spec/rayClusterSpec",
        },
    ]
    (tmp_path / "x.json").write_text(json.dumps(operations))
    options = ManifestOptions(cluster=True, patches=[str(tmp_path / "x.json")])
    (patched,) = yaml.safe_load_all(render(load("gp_l"), options))
    assert len(patched["spec"]["workerGroupSpecs"]) == 3
    assert patched["metadata"]["annotations"] == {"x": "/spec/rayClusterSpec"}
    assert patched["spec"]["rayVersion"] == "/spec/rayClusterSpec"


def test_an_overlay_changes_what_it_names_and_no_more(tmp_path):
    pytest.importorskip("jsonpatch")
    path = "/spec/rayClusterSpec/workerGroupSpecs/0/template/spec/containers/0"
    first, second = tmp_path / "a.yaml", tmp_path / "b.json"
    first.write_text(
        f"- {{op: add, path: {path}/env/-, value: {{name: NCCL_DEBUG, value: INFO}}}}\n"
        f"- {{op: add, path: {path}/securityContext/capabilities/add, value: [IPC_LOCK]}}\n"
    )
    second.write_text(json.dumps([{"op": "replace", "path": "/spec/backoffLimit", "value": 7}]))
    options = ManifestOptions(patches=[str(first), str(second)])
    before, plain = yaml.safe_load_all(render(load("gp_l"), ManifestOptions()))
    after, patched = yaml.safe_load_all(render(load("gp_l"), options))
    assert before == after
    container = pods(plain["spec"]["rayClusterSpec"])["rollout"]["containers"][0]
    container["env"].append({"name": "NCCL_DEBUG", "value": "INFO"})
    container["securityContext"]["capabilities"]["add"] = ["IPC_LOCK"]
    plain["spec"]["backoffLimit"] = 7
    assert patched == plain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "x.yaml: cannot be read: "),
        ("a: [", "x.yaml: cannot be read: "),
        ("a: b", "x.yaml: must be a list of operations of a JSON patch"),
        ("- {op: remove, path: /spec/backoffLimit}\n- {op: remove, path: /spec/no}", "operation 2"),
        ("- {op: add, path: /spec/no/further, value: 1}", "operation 1 does not fit the manifest"),
        ("- {op: put, path: /spec/x, value: 1}", "operation 1 does not fit the manifest"),
        ("- {path: /spec/x}", "operation 1 does not fit the manifest"),
        ("- word", "operation 1 does not fit the manifest"),
        ("- {op: add, path: spec, value: 1}", "operation 1 does not fit the manifest"),
    ],
)
def test_an_overlay_that_does_not_fit_is_refused(tmp_path, text, words):
    pytest.importorskip("jsonpatch")
    file = tmp_path / "x.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        render(load("gp_l"), ManifestOptions(patches=[str(file)]))
    assert str(refusal.value).startswith(f"--patch {file}: ")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_pods_that_are_as_many_as_they_should_be_need_no_autoscaler():
    assert "enableInTreeAutoscaling" not in job()["spec"]["rayClusterSpec"]


def test_an_unreadable_configuration_name_is_refused():
    with pytest.raises(ConfigError):
        object_name("---")
