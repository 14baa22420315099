"""Imports run one way, vendors stay in their files, and files and functions stay short.

Comes in: the source tree, parsed and never imported; goes out: one line a violation.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.paths import ROOT

LAYERS = {  # each may import these
    "configs": (),
    "envs": ("configs",),
    "rollout": ("configs", "envs"),
    "learner": ("configs", "envs", "rollout"),
    "report": ("configs",),
    "cluster": ("configs", "envs", "rollout", "learner", "report"),
}
LEARNER_SEES = (
    "rollout.trajectory", "rollout.pictures", "rollout.renderer", "rollout.processor",
    "rollout.bucket",
)  # fmt: skip
VENDORS = {  # where a vendor's package may be imported
    "ray": ("cluster/",),
    "vllm": ("rollout/engine.py", "rollout/weight_receiver.py", "learner/weight_sender.py"),
    "deepspeed": ("learner/engine.py",),
}
DOCSTRING_LINES, FUNCTION_LINES, FILE_LINES = 5, 80, 400
MAPS = ("cluster/train.py",)  # the job's entry file holds the map of the whole


def violations(root: Path) -> list[str]:
    """Every broken rule under root, as `file:line: what`."""
    found = []
    for folder in (*LAYERS, "benchmarks", "tests"):
        for file in sorted((root / folder).rglob("*.py")):
            name = file.relative_to(root).as_posix()
            source = file.read_text()
            tree = ast.parse(source, name)
            found += [f"{name}:{line}: {what}" for line, what in _sizes(name, source, tree)]
            if folder in LAYERS:
                found += [f"{name}:{line}: {what}" for line, what in _imports(name, tree)]
    return found


def _sizes(name: str, source: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    lines = source.count("\n")
    if lines > FILE_LINES:
        yield 1, f"{lines} lines, over {FILE_LINES}"
    docstring = ast.get_docstring(tree)
    if tree.body and docstring is None:
        yield 1, "no module docstring"
    if docstring and name not in MAPS and len(docstring.splitlines()) > DOCSTRING_LINES:
        yield 1, f"module docstring of over {DOCSTRING_LINES} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {length} lines, over {FUNCTION_LINES}"


def _imports(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    layer = name.split("/")[0]
    others = set(LAYERS) - {layer, *LAYERS[layer]}
    for line, module in _imported(name, tree):
        top = module.split(".")[0]
        if top in others or top in ("tests", "benchmarks"):
            yield line, f"{layer} imports {module}"
        if layer == "learner" and top == "rollout":
            seen = any(f"{module}.".startswith(f"{m}.") for m in LEARNER_SEES)
            if not seen:
                yield line, f"learner imports {module}, not one of {LEARNER_SEES}"
        if top in VENDORS and not name.startswith(VENDORS[top]):
            yield line, f"{top} is imported outside {VENDORS[top]}"


def _imported(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Modules that a file imports, `importlib.import_module("…")` included."""
    package = name.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module in LAYERS:  # from rollout import engine
                for alias in node.names:
                    yield node.lineno, f"{module}.{alias.name}"
            else:
                yield node.lineno, module
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).split(".")[-1]
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def test_the_tree_keeps_the_rules() -> None:
    assert violations(ROOT) == []


def test_every_layer_is_looked_at() -> None:
    for layer in LAYERS:
        assert list((ROOT / layer).glob("*.py")), layer


@pytest.mark.parametrize(
    ("file", "code", "expected"),
    [
        ("configs/a.py", "from envs.base import TextEnv", "configs imports envs.base"),
        ("envs/a.py", "def f():\n    import rollout.engine", "envs imports rollout.engine"),
        ("rollout/a.py", "from learner import loss", "rollout imports learner.loss"),
        ("rollout/a.py", "from ..learner import loss", "rollout imports learner.loss"),
        ("learner/a.py", "import cluster.buffer", "learner imports cluster.buffer"),
        ("learner/a.py", "from rollout import engine", "learner imports rollout.engine"),
        ("learner/a.py", "from rollout.trajectory_store import x", "rollout.trajectory_store"),
        ("learner/a.py", "import ray.train", "ray is imported outside"),
        ("learner/a.py", "import importlib\nimportlib.import_module('ray')", "ray is imported"),
        ("learner/loss.py", "if True:\n    import deepspeed", "deepspeed is imported outside"),
        ("cluster/a.py", "from vllm import LLM", "vllm is imported outside"),
        ("cluster/a.py", "import tests.helpers", "cluster imports tests.helpers"),
        ("envs/a.py", "def f():\n" + "    x = 1\n" * 80, "f has 81 lines"),
        ("envs/a.py", "x = 1\n" * 400, "401 lines"),
        ("tests/a.py", "async def f():\n" + "    x = 1\n" * 80, "f has 81 lines"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, file: str, code: str, expected: str) -> None:
    target = tmp_path / file
    target.parent.mkdir()
    target.write_text(f'"""A file."""\n{code}\n'.replace("x = 1\n\n", "x = 1\n"))
    found = violations(tmp_path)
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("learner/a.py", "from rollout.trajectory import Trajectory\nfrom rollout import bucket"),
        ("cluster/a.py", "import ray\nfrom learner import loss\nimport rayon"),
        ("rollout/weight_receiver.py", "import vllm.config"),
        ("learner/engine.py", "import deepspeed"),
        ("envs/general_points/a.py", "from . import rules\nfrom ..base import TextEnv"),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, file: str, code: str) -> None:
    target = tmp_path / file
    target.parent.mkdir(parents=True)
    target.write_text(f'"""A file."""\n{code}\n')
    assert violations(tmp_path) == []


def test_docstrings_exist_and_are_short(tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "none.py").write_text("x = 1\n")
    (tmp_path / "envs" / "long.py").write_text('"""1.\n2\n3\n4\n5\n6\n"""\n')
    (tmp_path / "envs" / "short.py").write_text('"""1.\n2\n3\n4\n5\n"""\n')
    (tmp_path / "envs" / "__init__.py").write_text("")
    assert violations(tmp_path) == [
        "envs/long.py:1: module docstring of over 5 lines",
        "envs/none.py:1: no module docstring",
    ]
