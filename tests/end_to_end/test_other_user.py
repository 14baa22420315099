"""A run of another user, in a checkout under a path with a blank and letters that are not ASCII.

Without HOME it is refused at once; with one it ends well.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from configs.paths import ROOT

USER = 12345  # has no entry in the system's list
AGAIN = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
PARTS = ("configs", "envs", "rollout", "learner", "report", "cluster", "pyproject.toml")
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all")
SMALL = (
    "name=ärger",
    "sft.steps=8",
    "ppo.updates=1",
    "ppo.critic_warmup=0",
    "eval.episodes=16",
    "eval.sampled_questions=4",
    "eval.samples=2",
    "cluster.object_store_gib=0.25",
)


def can_be_another() -> bool:
    """Whether this interpreter runs as another user, and from there, as Ray starts its workers."""
    if os.geteuid() or not shutil.which("setpriv"):
        return False
    command = [*AS_USER, sys.executable, "-c", AGAIN]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not can_be_another(), reason="needs root, setpriv and an interpreter that all may run"
    ),
]


@pytest.fixture(scope="module")
def checkout():
    """A copy of this one, of the other user; pytest's own folders are closed to others."""
    place = Path(tempfile.mkdtemp(prefix="cardinal-", dir="/tmp"))
    place.chmod(0o755)
    folder = place / "mein Ordner für λ"
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / part, ignore=ignore)
        else:
            shutil.copyfile(source, folder / part)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    yield folder
    shutil.rmtree(place)


def train(checkout, **variables):
    """Exit code, output and seconds of `train`, with these variables alone."""
    environment = {"PATH": os.environ["PATH"], **variables}
    command = [*AS_USER, sys.executable, "-m", "cluster.cli", "train", "gp_l_debug", *SMALL]
    begin = time.monotonic()
    ended = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=800
    )
    return ended.returncode, ended.stdout, ended.stderr, time.monotonic() - begin


def test_without_a_home_it_is_refused_at_once(checkout):
    code, _, error, seconds = train(checkout)
    assert (code, error.count("\n")) == (2, 1), error
    assert error.startswith("cardinal: HOME is not set, and this user has no home folder; ")
    assert seconds < 60.0, "an engine was started"
    assert not (checkout / "runs").exists()


def test_with_a_home_it_ends_well(checkout):
    home = checkout / "zu Hause"
    home.mkdir()
    os.chown(home, USER, USER)
    code, out, error, _ = train(checkout, HOME=str(home))
    assert code == 0, f"{out[-2000:]}\n{error[-3000:]}"
    run = checkout / "runs/ärger"
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    assert (run / "checkpoints/ppo/model.safetensors").is_file()
    assert {path.stat().st_uid for path in run.rglob("*")} == {USER}
