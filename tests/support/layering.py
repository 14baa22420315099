"""The rules of the tree, as functions: a folder in, one line per violation out.

Sources are parsed, never imported, so that a broken file cannot hide from them. What each limit
is stands at the top; `tests/test_layering.py` holds the tree to them.
"""

from __future__ import annotations

import ast
import functools
import io
import os
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOMS = {  # each may import these
    "configs": (),
    "envs": ("configs",),
    "rollout": ("configs", "envs"),
    "learner": ("configs", "envs", "rollout"),
    "report": ("configs",),
    "cluster": ("configs", "envs", "rollout", "learner", "report"),
}
LEARNER_SEES = (
    "rollout.trajectory",
    "rollout.pictures",
    "rollout.renderer",
    "rollout.processor",
    "rollout.bucket",
    "rollout.adapters",
    "rollout.freed_memory",
)
VENDORS = {  # where a vendor's package may be imported
    "ray": ("cluster/",),
    "vllm": (
        "rollout/engine.py",
        "rollout/engine_settings.py",
        "rollout/weight_receiver.py",
        "learner/weight_sender.py",
    ),
    "deepspeed": ("learner/engine.py", "learner/closing.py"),
}
WITHOUT = {
    "report": ("ray", "vllm", "deepspeed", "torch"),
    "configs": ("torch",),
    "envs": ("torch",),
}
REST = "*"  # the files of a package that are named on no floor
FLOORS = {  # from bottom to top: a part imports itself and the floors below, never its neighbour
    "configs": (("leaf", "text"), ("training",), ("schema",), ("presets",), (REST,)),
    "envs": (
        ("base", "answers", "rewards", "templates"),
        ("settings",),
        ("general_points", "virl", "viewer", REST),
    ),
    "envs.virl": (("geometry", "names"), ("route",), ("city",), ("drawing",), (REST,)),
    "report": ((REST,), ("study",), ("comparison",)),
    "cluster": (
        ("awake", "failures", "handles", "exit_codes", "deadlines"),
        ("wait", "environments", "checkpoints"),
        ("run",),
        ("placement", "weights", "demonstrations"),
        ("actors", "job", "workers", REST),
        ("stream",),
        ("phases",),
        ("driver",),
        ("preflight",),
        ("launch", "study", "doctor"),
        ("commands",),
        ("command_line",),
        ("cli",),
    ),
}
DOCSTRING_LINES, FUNCTION_LINES, FILE_LINES = 5, 50, 400
MAPS = ("cluster/driver/train.py",)  # the job's entry file holds the map of the whole
FORMAT_SKIPS, ANYS = 20, 20
TYPED = ("rollout", "learner", "cluster")  # where Any in signatures is counted
AUTHORITY = ("docs/invariants.md", "docs/specification.md")
OUTSIDE = re.compile(r"\b[Ll]aws? \d|\bSPEC\b|\b(?:DESIGN|FIELD|STACK|SUITE)\.md\b")
TEXTS = (".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".cff", ".in", ".txt", ".Dockerfile")
PASSED_OVER = {".git", ".venv", "runs", "models", "build"}


def texts(root: Path, *folders: str) -> Iterator[tuple[str, str]]:
    """(path from root, text) of each Python file of some folders; the packages by default."""
    for folder in folders or tuple(ROOMS):
        for file in sorted((root / folder).rglob("*.py")):
            yield file.relative_to(root).as_posix(), file.read_text()


parsed = functools.cache(ast.parse)  # the rules read the same files; no rule changes a tree


def sources(root: Path, *folders: str) -> Iterator[tuple[str, str, ast.Module]]:
    """As `texts`, and the tree of each."""
    for name, text in texts(root, *folders):
        yield name, text, parsed(text, name)


def module(name: str) -> str:
    """The dotted module of a file."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(root: Path, name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, lazy ones and those for type checkers included."""
    package = name.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parent = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                child = f"{parent}.{alias.name}"
                yield node.lineno, child if parent in ROOMS or _is_module(root, child) else parent
        elif isinstance(node, ast.Call) and node.args:
            called, first = ast.unparse(node.func).split(".")[-1], node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def _is_module(root: Path, dotted: str) -> bool:
    path = root.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def size_violations(root: Path) -> list[str]:
    """Files, functions and module docstrings that are too long, or docstrings that are missing."""
    found = []
    for name, text, tree in sources(root, *ROOMS, "benchmarks", "examples", "tests", "tools"):
        found += [f"{name}:{line}: {what}" for line, what in _sizes(name, text, tree)]
    return found


def _sizes(name: str, text: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    lines = text.count("\n")
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


def import_violations(root: Path) -> list[str]:
    """Imports that leave a package upwards or sideways, and vendors outside their files."""
    found = set()
    for name, _, tree in sources(root):
        for line, imported in imports(root, name, tree):
            for what in _import_faults(name, imported):
                found.add(f"{name}:{line}: {what}")
    return sorted(found)


def _import_faults(name: str, imported: str) -> Iterator[str]:
    room, top = name.split("/")[0], imported.split(".")[0]
    if top in set(ROOMS) - {room, *ROOMS[room]} or top in ("tests", "benchmarks", "examples"):
        yield f"{room} imports {imported}"
    seen = any(f"{imported}.".startswith(f"{allowed}.") for allowed in LEARNER_SEES)
    if room == "learner" and top == "rollout" and not seen:
        yield f"learner imports {imported}, not one of {LEARNER_SEES}"
    if top in VENDORS and not name.startswith(VENDORS[top]):
        yield f"{top} is imported outside {VENDORS[top]}"
    if top in WITHOUT.get(room, ()):
        yield f"{room} imports {imported}; it needs none of {WITHOUT[room]}"
    for parent in FLOORS:
        mine, theirs = _floor(parent, module(name)), _floor(parent, imported)
        if mine and theirs and mine != theirs and theirs[0] >= mine[0]:
            yield f"{module(name)} imports {imported}, which stands no floor below it in {parent}"


def _floor(parent: str, dotted: str) -> tuple[int, str] | None:
    """(floor, part) of a module inside a package; None outside of it."""
    if dotted != parent and not dotted.startswith(f"{parent}."):
        return None
    part = dotted.removeprefix(parent).removeprefix(".").split(".")[0]
    floors = FLOORS[parent]
    part = part if any(part in floor for floor in floors) else REST
    return next((number, part) for number, floor in enumerate(floors) if part in floor)


def cycles(root: Path) -> list[str]:
    """Modules that import each other in a circle, one line per circle."""
    trees = {module(name): (name, tree) for name, _, tree in sources(root)}
    edges = {
        here: sorted({there for _, there in imports(root, *pair) if there in trees} - {here})
        for here, pair in trees.items()
    }
    found: set[str] = set()
    done: set[str] = set()

    def visit(here: str, path: list[str]) -> None:
        if here in path:
            circle = path[path.index(here) :]
            first = circle.index(min(circle))
            found.add(" -> ".join([*circle[first:], *circle[:first], circle[first]]))
        elif here not in done:
            for there in edges[here]:
                visit(there, [*path, here])
            done.add(here)

    for start in edges:
        visit(start, [])
    return sorted(found)


def format_skips(root: Path) -> list[str]:
    """Every place where the formatter is turned off."""
    found = []
    for name, text in texts(root, *ROOMS, "benchmarks", "examples", "tests", "tools"):
        if "fmt:" not in text:  # to cut a file into tokens takes long
            continue
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT and re.search(r"fmt: ?(skip|off)", token.string):
                found.append(f"{name}:{token.start[0]}")
    return found


def anys(root: Path) -> list[str]:
    """Every parameter and result whose annotation says Any, but for records: dict[str, Any]."""
    found = []
    for name, _, tree in sources(root, *TYPED):
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            a = node.args
            parameters = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
            annotations = [(p.arg, p.annotation) for p in parameters if p is not None]
            for what, annotation in [*annotations, ("return", node.returns)]:
                if annotation is not None and _says_any(annotation):
                    found.append(f"{name}:{node.lineno}: {node.name}, {what}")
    return found


def _says_any(annotation: ast.expr) -> bool:
    return re.search(r"\bAny\b", ast.unparse(annotation).replace("dict[str, Any]", "")) is not None


DECISIONS = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.BoolOp, ast.Match)


def untested(root: Path, excused: dict[str, str]) -> list[str]:
    """Source files whose functions decide something and that have no test file at their place."""
    found = []
    for name, _, tree in sources(root):
        path = Path(name)
        test = root / "tests" / path.parent / f"test_{path.name}"
        if decides(tree) and not test.is_file() and name not in excused:
            found.append(f"{name}: there is no {test.relative_to(root).as_posix()}")
    return found


def decides(tree: ast.Module) -> bool:
    """Whether a function of the file branches, loops or compares."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return any(isinstance(part, DECISIONS) for f in functions for part in ast.walk(f))


def outside_references(root: Path) -> list[str]:
    """Lines that cite a law by its number, or a page that is not in the repository."""
    found = []
    for file in sorted(_files(root)):
        name = file.relative_to(root).as_posix()
        known = file.suffix in TEXTS or file.name == "Makefile"
        own = name.endswith("support/layering.py")
        if not known or own or name in AUTHORITY or not file.is_file():
            continue
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            if match := OUTSIDE.search(line):
                found.append(f"{name}:{number}: {match.group()}")
    return found


def _files(root: Path) -> Iterator[Path]:
    """All files but those of folders that are passed over, which may hold a hundred thousand."""
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in PASSED_OVER]
        yield from (Path(folder, name) for name in names)
