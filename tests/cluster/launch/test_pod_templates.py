"""Pods as manifests: what a container may use, which probes it has, what may grow."""

import pytest

from cluster.launch.pod_templates import GIB, head_group, mount_volume, submitter, worker_group
from cluster.launch.pods import ManifestOptions, Pods

ROLLOUT = Pods("rollout", count=2, cpus=6, gpus=4, memory=20 * GIB, object_store=3 * GIB)
LEARNER = Pods("learner", count=1, cpus=3, gpus=0, memory=10 * GIB + 1, object_store=2 * GIB)


def spec(group):
    return group["template"]["spec"]


def all_pods(options):
    """Of a run, by template; the submitter has no group."""
    workers = [worker_group(pods, options) for pods in (ROLLOUT, LEARNER)]
    return [head_group(options), *workers, {"template": submitter(options)}]


def container(group):
    (found,) = spec(group)["containers"]
    return found


def test_a_container_gets_what_its_pod_requests_and_a_gibibyte_more():
    resources = container(worker_group(ROLLOUT, ManifestOptions()))["resources"]
    with_gpus = {"memory": f"{21 * 1024}Mi", "nvidia.com/gpu": 4}
    assert resources == {"requests": {"cpu": 6, **with_gpus}, "limits": with_gpus}
    resources = container(worker_group(LEARNER, ManifestOptions()))["resources"]
    assert resources["limits"] == {"cpu": 3, "memory": f"{11 * 1024 + 1}Mi"}  # rounded up
    assert resources["limits"] == resources["requests"]
    assert resources["limits"] is not resources["requests"]


def test_ray_counts_the_cpus_that_a_pod_requests():
    """There is no limit to count, and a node has more."""
    groups = [worker_group(pods, ManifestOptions()) for pods in (ROLLOUT, LEARNER)]
    assert [group["rayStartParams"]["num-cpus"] for group in groups] == ["6", "3"]


def test_shared_memory_holds_the_object_store():
    group = worker_group(ROLLOUT, ManifestOptions(claim="disk"))
    volumes = {volume["name"]: volume for volume in spec(group)["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": f"{4 * 1024}Mi"}
    assert volumes["storage"]["persistentVolumeClaim"] == {"claimName": "disk"}
    paths = {mount["name"]: mount["mountPath"] for mount in container(group)["volumeMounts"]}
    assert paths == {"shm": "/dev/shm", "storage": "/mnt/cardinal"}
    assert group["rayStartParams"]["object-store-memory"] == str(3 * GIB)


def test_only_pods_with_gpus_go_where_gpus_are():
    options = ManifestOptions(nodes={"gpu": "H100"})
    group = worker_group(ROLLOUT, options)
    assert spec(group)["nodeSelector"] == {"gpu": "H100"}
    assert spec(group)["nodeSelector"] is not options.nodes
    assert spec(group)["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    for without in (worker_group(LEARNER, options), head_group(options)):
        assert "nodeSelector" not in spec(without)
        assert "tolerations" not in spec(without)


def test_there_are_as_many_pods_as_there_should_be():
    found = [worker_group(pods, ManifestOptions()) for pods in (ROLLOUT, LEARNER)]
    assert [group["groupName"] for group in found] == ["rollout", "learner"]
    counts = [(g["minReplicas"], g["replicas"], g["maxReplicas"]) for g in found]
    assert counts == [(2, 2, 2), (1, 1, 1)]


def test_nodes_have_their_role_as_a_label():
    found = [worker_group(pods, ManifestOptions()) for pods in (ROLLOUT, LEARNER)]
    assert [group["labels"] for group in found] == [
        {"cardinal/role": "rollout"},
        {"cardinal/role": "learner"},
    ]
    assert "labels" not in head_group(ManifestOptions())


def test_the_image_is_fetched_with_secrets_and_pods_have_a_priority():
    options = ManifestOptions(pull_secrets=["one", "two"], priority_class="research")
    for group in all_pods(options):
        assert spec(group)["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
        assert spec(group)["priorityClassName"] == "research"
    for group in all_pods(ManifestOptions()):
        assert {"imagePullSecrets", "priorityClassName"}.isdisjoint(spec(group))
        assert spec(group)["enableServiceLinks"] is False


def test_the_head_serves_ray_and_offers_no_work():
    group = head_group(ManifestOptions())
    assert group["rayStartParams"]["num-cpus"] == group["rayStartParams"]["num-gpus"] == "0"
    ports = {port["name"]: port["containerPort"] for port in container(group)["ports"]}
    assert ports == {"gcs": 6379, "dashboard": 8265, "metrics": 8080}
    assert container(group)["name"] == "ray-head"
    assert container(worker_group(ROLLOUT, ManifestOptions()))["name"] == "ray-worker"


@pytest.mark.parametrize(
    ("group", "path", "port"),
    [
        (head_group(ManifestOptions()), "/api/gcs_healthz", 8265),
        (worker_group(LEARNER, ManifestOptions()), "/api/local_raylet_healthz", 52365),
    ],
    ids=["head", "worker"],
)
def test_a_slow_start_is_waited_for_and_a_dead_ray_is_not(group, path, port):
    seconds = {}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        found = container(group)[probe]
        assert found["httpGet"] == {"path": path, "port": port}
        assert found["timeoutSeconds"] <= found["periodSeconds"]
        seconds[probe] = found["periodSeconds"] * found["failureThreshold"]
    assert seconds == {"startupProbe": 300, "readinessProbe": 30, "livenessProbe": 120}
    start = group["rayStartParams"]
    assert start["dashboard-agent-listen-port"] == "52365"  # where a worker's probes ask


@pytest.mark.parametrize(
    ("options", "image"),
    [
        (ManifestOptions(), "cardinal:gpu"),
        (ManifestOptions(gpus=False), "cardinal:cpu"),
        (ManifestOptions(image="mine:1", gpus=False), "mine:1"),
    ],
)
def test_the_image(options, image):
    assert {container(group)["image"] for group in all_pods(options)} == {image}


def test_secrets_are_named_and_never_written():
    options = ManifestOptions(secrets={"TOKEN": ("hub", "key")})
    home, *_, secret = container(worker_group(ROLLOUT, options))["env"]
    assert home == {"name": "HF_HOME", "value": "/mnt/cardinal/huggingface"}
    assert secret == {
        "name": "TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "hub", "key": "key"}},
    }


def test_a_process_that_hangs_is_ended_in_all_pods_as_soon_as_in_a_local_ray():
    setting = {"name": "RAY_kill_worker_timeout_milliseconds", "value": "1000"}
    for group in (head_group(ManifestOptions()), worker_group(ROLLOUT, ManifestOptions())):
        assert setting in container(group)["env"]


def test_pods_run_without_privileges():
    for group in all_pods(ManifestOptions()):
        security = spec(group)["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 1000
        assert container(group)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


def test_pods_without_gpus_see_none():
    """An image may ask for all, and a node's runtime gives them."""
    none = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
    seen = [none not in container(group)["env"] for group in all_pods(ManifestOptions())]
    assert seen == [False, True, False, False]  # head, rollout, a learner without, submitter


def test_the_submitter_takes_no_whole_cpu_and_ends():
    pod = submitter(ManifestOptions())["spec"]
    assert pod["restartPolicy"] == "Never"
    (found,) = pod["containers"]
    assert found["name"] == "ray-job-submitter"
    assert "command" not in found  # KubeRay's own
    assert found["resources"]["requests"] == {"cpu": "500m", "memory": "200Mi"}


def test_volumes_are_added_to_those_that_are_there():
    pod = {"containers": [{"name": "one"}]}
    mount_volume(pod, "a", {"emptyDir": {}}, "/a")
    mount_volume(pod, "b", {"configMap": {"name": "x"}}, "/b")
    assert pod["volumes"] == [
        {"name": "a", "emptyDir": {}},
        {"name": "b", "configMap": {"name": "x"}},
    ]
    assert pod["containers"][0]["volumeMounts"] == [
        {"name": "a", "mountPath": "/a"},
        {"name": "b", "mountPath": "/b"},
    ]
