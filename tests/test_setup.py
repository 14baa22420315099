"""What `make setup` relies on."""

import subprocess

import pytest

from configs.paths import ROOT


def test_the_installer_leaves_no_locked_package_out():
    # uv applies what pyproject.toml tells it (overrides, excluded packages) to locks too, and says
    # nothing of what it leaves out: a GPU machine had no torch.
    uv = ROOT / ".venv" / "bin" / "uv"
    if not uv.exists():
        pytest.skip("pip made this environment, which knows none of uv's settings")
    for name in ("torch", "torchvision", "torchaudio", "vllm"):
        asked = [uv, "pip", "install", "--dry-run", "--offline", "--no-deps", f"{name}==0.0.0.1"]
        said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
        assert said.returncode == 1, said.stderr
        assert name in said.stderr
