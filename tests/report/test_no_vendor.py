"""`report/` reads run folders on a machine that has none of the training stack installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMPORT_ALL = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "vllm", "deepspeed", "torch"):
            raise ModuleNotFoundError(f"{name} is refused here", name=name)
        return None

sys.meta_path.insert(0, Refuse())
for module in sys.argv[1:]:
    importlib.import_module(module)
try:
    import torch
except ModuleNotFoundError:
    print("imported", len(sys.argv) - 1)
"""


def modules() -> list[str]:
    """The package and every file below it, as modules."""
    files = sorted((ROOT / "report").rglob("*.py"))
    paths = [file.relative_to(ROOT).with_suffix("") for file in files]
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


def test_every_file_of_report_is_imported_without_ray_vllm_deepspeed_and_torch() -> None:
    names = modules()
    assert {"report", "report.page", "report.study", "report.study.page"} <= set(names)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["imported", str(len(names))]), done.stderr
