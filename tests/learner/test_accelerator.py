"""DeepSpeed is told that it runs on a CPU, wherever no GPU can be."""

import os
import subprocess
import sys

import pytest

from configs.paths import ROOT
from learner import accelerator


@pytest.mark.parametrize("library", accelerator.GPU_LIBRARIES)
def test_where_a_gpu_can_be_deepspeed_looks_itself(library, monkeypatch):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)

    def load(name):
        if name != library:
            raise OSError(name)

    monkeypatch.setattr(accelerator.ctypes, "CDLL", load)
    accelerator.name_accelerator()
    assert "DS_ACCELERATOR" not in os.environ


def test_where_none_can_be_it_is_the_cpu_or_what_the_user_says(monkeypatch):
    def load(name):
        raise OSError(name)

    monkeypatch.setattr(accelerator.ctypes, "CDLL", load)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    accelerator.name_accelerator()
    assert os.environ["DS_ACCELERATOR"] == "cpu"
    monkeypatch.setenv("DS_ACCELERATOR", "xpu")
    accelerator.name_accelerator()
    assert os.environ["DS_ACCELERATOR"] == "xpu"


@pytest.mark.slow
def test_no_module_of_the_learner_starts_with_a_warning():
    environment = {k: v for k, v in os.environ.items() if k != "DS_ACCELERATOR"}
    code = "import learner.attention, learner.init_model, learner.engine"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "real_accelerator" not in done.stdout + done.stderr
