"""The tree keeps its rules: packages, vendors, no circles, short files, types, a test per file.

The rules themselves stand in `tests/support/layering.py`; each has a test that a violation is
found.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from configs.paths import ROOT
from tests.support import layering

PAINTED = "paints: held by what is seen, in tests/envs/virl/drawing/test_render.py"
EXCUSED = {  # source files that decide something and have no test file at their place, and why
    "envs/virl/drawing/brush.py": PAINTED,
    "envs/virl/drawing/fronts.py": PAINTED,
    "envs/virl/drawing/furniture.py": PAINTED,
    "envs/virl/drawing/ground.py": PAINTED,
    "envs/virl/drawing/look.py": PAINTED,
    "envs/virl/drawing/ornaments.py": PAINTED,
    "envs/virl/drawing/sprites.py": PAINTED,
}


def test_every_room_is_there():
    for room in layering.ROOMS:
        assert list((ROOT / room).glob("*.py")), room


def test_imports_keep_to_their_rooms_and_vendors():
    assert layering.import_violations(ROOT) == []


def test_no_module_imports_itself_in_a_circle():
    assert layering.cycles(ROOT) == []


def test_files_functions_and_docstrings_are_short():
    assert layering.size_violations(ROOT) == []


def test_the_formatter_is_rarely_turned_off():
    places = layering.format_skips(ROOT)
    assert len(places) <= layering.FORMAT_SKIPS, "\n".join(places)


def test_signatures_rarely_say_any():
    places = layering.anys(ROOT)
    assert len(places) <= layering.ANYS, "\n".join(places)


def test_what_decides_has_a_test_at_its_place():
    assert layering.untested(ROOT, EXCUSED) == []


def test_no_excuse_is_stale():
    untested = {line.split(":")[0] for line in layering.untested(ROOT, {})}
    assert EXCUSED.keys() - untested == set()


def test_nothing_cites_what_a_reader_does_not_have():
    assert layering.outside_references(ROOT) == []


# --- each rule finds what breaks it -------------------------------------------------------


def write(root: Path, **files: str) -> Path:
    """A tree of small files: `envs__a` is envs/a.py."""
    for name, code in files.items():
        target = root / (name.replace("__", "/") + ".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f'"""A file."""\n{code}\n')
    return root


@pytest.mark.parametrize(
    ("file", "code", "expected"),
    [
        ("configs__a", "from envs.base import TextEnv", "configs imports envs.base"),
        ("envs__a", "def f():\n    import rollout.engine", "envs imports rollout.engine"),
        ("rollout__a", "from learner import loss", "rollout imports learner.loss"),
        ("rollout__a", "from ..learner import loss", "rollout imports learner.loss"),
        ("learner__a", "import cluster.stream.buffer", "learner imports cluster.stream.buffer"),
        ("learner__a", "from rollout import engine", "learner imports rollout.engine"),
        ("learner__a", "from rollout.trajectory_store import x", "rollout.trajectory_store"),
        ("learner__a", "import ray.train", "ray is imported outside"),
        ("learner__a", "import importlib\nimportlib.import_module('ray')", "ray is imported"),
        ("learner__loss", "if True:\n    import deepspeed", "deepspeed is imported outside"),
        ("learner__engine", "import vllm", "vllm is imported outside"),
        ("cluster__a", "from vllm import LLM", "vllm is imported outside"),
        ("cluster__a", "import tests.helpers", "cluster imports tests.helpers"),
        ("cluster__a", "import examples.sums", "cluster imports examples.sums"),
        ("report__a", "import torch.nn", "report imports torch.nn"),
        ("report__a", "from cluster import wait", "report imports cluster.wait"),
        ("report__a", "import report.study.page", "report.a imports report.study.page"),
        ("envs__viewer__a", "from envs.virl import env", "envs.viewer.a imports envs.virl"),
        ("envs__virl__a", "import envs.general_points.env", "envs.virl.a imports envs.general"),
        ("envs__virl__city__a", "import envs.virl.drawing.b", "envs.virl.city.a imports"),
        ("envs__virl__drawing__a", "import envs.virl.env", "envs.virl.drawing.a imports"),
        ("envs__base", "import envs.registry", "envs.base imports envs.registry"),
        ("cluster__placement__a", "import cluster.phases.learner_loop", "cluster.placement.a"),
        ("cluster__placement__a", "import cluster.weights.base", "cluster.placement.a"),
        (
            "cluster__driver__train",
            "import cluster.preflight.check",
            "cluster.driver.train imports",
        ),
        ("cluster__preflight__a", "import cluster.launch.submit", "cluster.preflight.a"),
        ("cluster__launch__a", "import cluster.study.run", "cluster.launch.a"),
        ("cluster__commands__a", "import cluster.cli", "cluster.commands.a imports"),
        (
            "cluster__wait",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import cluster.driver.train",
            "cluster.wait imports cluster.driver.train",
        ),
    ],
)
def test_an_import_that_is_not_allowed_is_found(tmp_path, file, code, expected):
    found = layering.import_violations(write(tmp_path, **{file: code}))
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("learner__a", "from rollout.trajectory import Trajectory\nfrom rollout import bucket"),
        ("cluster__a", "import ray\nfrom learner import loss\nimport rayon"),
        ("rollout__weight_receiver", "import vllm.config"),
        ("learner__weight_sender", "import vllm"),
        ("learner__engine", "import deepspeed, torch"),
        ("envs__general_points__a", "from . import rules\nfrom ..base import TextEnv"),
        ("envs__viewer__a", "from envs.base import TextEnv\nimport envs.viewer.page"),
        ("cluster__preflight__a", "import cluster.placement.memory, cluster.wait"),
        ("cluster__cli", "import cluster.commands.train, cluster.launch.submit"),
        ("report__study__a", "import report.page"),
    ],
)
def test_an_import_that_is_allowed_passes(tmp_path, file, code):
    assert layering.import_violations(write(tmp_path, **{file: code})) == []


def test_circles_are_found_lazy_ones_and_those_for_type_checkers_too(tmp_path):
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from envs.a import f"
    write(tmp_path, envs__a="def f():\n    from envs import b", envs__b="import envs.c")
    assert layering.cycles(tmp_path) == []
    write(tmp_path, envs__c=hidden, envs__d="import envs.a")
    assert layering.cycles(tmp_path) == ["envs.a -> envs.b -> envs.c -> envs.a"]


@pytest.mark.parametrize(
    ("file", "code", "expected"),
    [
        ("envs__a", "def f():\n" + "    x = 1\n" * 50 + "    y = 1", "f has 52 lines"),
        ("envs__a", "x = 1\n" * 399 + "x = 1", "401 lines"),
        ("tests__a", "async def f():\n" + "    x = 1\n" * 50, "f has 51 lines"),
        ("examples__a", "class A:\n    def f(self):\n" + "        x = 1\n" * 50, "f has 51 lines"),
    ],
)
def test_what_is_too_long_is_found(tmp_path, file, code, expected):
    found = layering.size_violations(write(tmp_path, **{file: code}))
    assert len(found) == 1
    assert expected in found[0]


def test_what_is_just_short_enough_passes(tmp_path):
    write(tmp_path, envs__a="def f():\n" + "    x = 1\n" * 49, envs__b="x = 1\n" * 398 + "x = 1")
    assert layering.size_violations(tmp_path) == []


def test_docstrings_exist_and_are_short(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "none.py").write_text("x = 1\n")
    (tmp_path / "envs" / "long.py").write_text('"""1.\n2\n3\n4\n5\n6\n"""\n')
    (tmp_path / "envs" / "short.py").write_text('"""1.\n2\n3\n4\n5\n"""\n')
    (tmp_path / "envs" / "__init__.py").write_text("")
    assert layering.size_violations(tmp_path) == [
        "envs/long.py:1: module docstring of over 5 lines",
        "envs/none.py:1: no module docstring",
    ]


def test_turned_off_formatting_is_counted_in_comments_alone(tmp_path):
    code = "x = [1,2]  # fmt: skip\n# fmt: off\ny = '# fmt: skip'"
    assert layering.format_skips(write(tmp_path, tests__a=code)) == ["tests/a.py:2", "tests/a.py:3"]


def test_any_is_counted_in_signatures_but_not_in_records(tmp_path):
    code = """
from typing import Any
x: Any = 1
def f(a: Any, *b: int, c: list[Any] | None = None, d: dict[str, Any], **e: Any) -> Any:
    y: Any = a
async def g(a: dict[str, list[Any]], b: "Anything") -> dict[str, Any]: ...
"""
    found = layering.anys(write(tmp_path, learner__a=code, envs__a=code))
    assert [line.split(", ")[-1] for line in found] == ["a", "c", "e", "return", "a"]


@pytest.mark.parametrize(
    ("code", "decides"),
    [
        ("def f(x):\n    return x + 1", False),
        ("X = 1 if True else 2", False),
        ("class A:\n    x: int = 1", False),
        ("def f(x):\n    return 1 if x else 2", True),
        ("class A:\n    def f(self, x):\n        for y in x:\n            pass", True),
        ("def f(x):\n    return x or 1", True),
    ],
)
def test_what_decides_needs_a_test(tmp_path, code, decides):
    assert layering.decides(ast.parse(code)) == decides
    write(tmp_path, cluster__study__a=code)
    missing = ["cluster/study/a.py: there is no tests/cluster/study/test_a.py"] if decides else []
    assert layering.untested(tmp_path, {}) == missing
    assert layering.untested(tmp_path, {"cluster/study/a.py": "a reason"}) == []
    write(tmp_path, tests__cluster__study__test_a="")
    assert layering.untested(tmp_path, {}) == []


def test_numbers_of_laws_and_pages_from_outside_are_found(tmp_path):
    (tmp_path / "docs").mkdir()
    cited = ("law" + " 6", "Laws" + " 1 and 2", "SP" + "EC, section 4", "see DES" + "IGN.md")
    for number, text in enumerate(cited):
        (tmp_path / "docs" / f"{number}.md").write_text(f"one\nas {text} says\n")
        (tmp_path / layering.AUTHORITY[0]).write_text(text)
    (tmp_path / "docs" / "fine.md").write_text("a law firm, lawn 6, spec, SPECIAL\n")
    found = layering.outside_references(tmp_path)
    assert [line.split(":")[:2] for line in found] == [[f"docs/{n}.md", "2"] for n in range(4)]
