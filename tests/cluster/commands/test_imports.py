"""What refuses a configuration comes before the imports that take seconds."""

import json
import subprocess
import sys

from configs.paths import ROOT
from tests.cluster.commands.folders import moved_run

HEAVY = ("torch", "ray", "vllm", "transformers", "deepspeed", "matplotlib")
RUN_EACH = """
import json, sys
from cluster.cli import main
heavy, commands = json.loads(sys.argv[1])
for command in commands:
    print(main(command), [name for name in heavy if name in sys.modules])
"""


def test_a_refused_configuration_imports_nothing_heavy(tmp_path):
    run = str(moved_run(tmp_path))
    commands = [
        [name, "gp_l", *wrong, *more]
        for name, more in (
            ("check", []),
            ("train", []),
            ("submit", []),
            ("kuberay", []),
            ("init-model", ["--out", "x"]),
            ("data", ["--out", "x"]),
            ("play", []),
            ("baseline", []),
            ("gallery", ["--out", "x"]),
            ("doctor", []),
        )
        for wrong in (["typo=1"], ["env.settings.face_rul=ten"], ["seed=much"])
    ]
    commands += [
        ["train", "gp_l", f"cluster.root={tmp_path}", f"name={(tmp_path / run).name}"],
        *([name, "gp_l", "model.path=/nowhere"] for name in ("train", "check")),
        ["check", "gp_l", "model.path=models/nowhere"],
        ["eval", run, "--variant", "hard"],
        ["resume", "/nowhere"],
        ["report", "/nowhere"],
        ["study", "gp_l"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUN_EACH, json.dumps([HEAVY, commands])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.stdout.splitlines() == ["2 []"] * len(commands), done.stderr


def test_the_buffers_process_starts_without_torch_and_tensorboard():
    code = (
        "import sys, cluster.stream.buffer\n"
        "sys.exit(', '.join({'torch', 'tensorboard'} & {*sys.modules}) or None)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
