"""What the documentation names: paths, modules, keys, commands and targets that are not there.

Input: a page. Output: one line per name that leads nowhere. Names are looked for in code spans,
code blocks and links; Python blocks are read for their imports alone.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import re
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from configs.schema import RunConfig
from envs.base import TextEnv
from envs.general_points.settings import Settings as GeneralPointsSettings
from envs.virl.settings import Settings as VIRLSettings

ROOMS = ("configs", "envs", "rollout", "learner", "report", "cluster")
FOLDERS = (*ROOMS, "tests", "docs", "benchmarks", "examples", "docker", "tools", "requirements")
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.M | re.S)
INDENTED = re.compile(r"^ {4}\S.*$", re.M)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./-]*)(?:::(\w+))?")
DOTTED = re.compile(r"(?<![\w./-])([a-z_]+(?:\.[A-Za-z_]\w*)+)(?![\w(])")
MAKE = re.compile(r"(?<![\w-])make ([a-z][a-z-]*)")
COMMAND = re.compile(
    r"(?<![\w/-])(?:\.venv/bin/cardinal|cardinal|-m cluster\.cli) ([a-z][a-z-]*)([^|#\n]*)"
)
BARE = re.compile(r"(?:^|[|;&]) *cardinal\b", re.M)
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
SUFFIXES = ("html", "png", "json", "jsonl", "csv", "yaml", "py", "md", "log")
SETTINGS = {
    f.name for cls in (GeneralPointsSettings, VIRLSettings) for f in dataclasses.fields(cls)
}


def faults(root: Path, page: Path) -> list[str]:
    """Names on a page that lead nowhere, as `page:line: what`."""
    text = page.read_text()
    found = [
        *_links(page, text),
        *_bare(text),
        *(fault for at, code, python in _code(text) for fault in _names(root, code, at, python)),
    ]
    name = page.relative_to(root).as_posix()
    return [f"{name}:{text.count(chr(10), 0, at) + 1}: {what}" for at, what in sorted(found)]


def _code(text: str) -> Iterator[tuple[int, str, bool]]:
    """(offset, code, whether it is Python) of each block and span."""
    for block in BLOCK.finditer(text):
        yield block.start(3), block[3], block[2] == "python"
    prose = BLOCK.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    for line in INDENTED.finditer(prose):
        yield line.start(), line[0], False
    for span in SPAN.finditer(INDENTED.sub(lambda line: " " * len(line[0]), prose)):
        yield span.start(1), span[1], False


def _bare(text: str) -> Iterator[tuple[int, str]]:
    """Lines to type that call `cardinal`, which only `.venv/bin/` has."""
    prose = BLOCK.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    lines = [(block.start(3), block[3]) for block in BLOCK.finditer(text)]
    lines += [(line.start(), line[0]) for line in INDENTED.finditer(prose)]
    for at, code in lines:
        for line in BARE.finditer(code):
            yield at + line.start(), "cardinal: is on no PATH; write .venv/bin/cardinal"


def _links(page: Path, text: str) -> Iterator[tuple[int, str]]:
    for link in LINK.finditer(text):
        target, _, anchor = link[1].partition("#")
        if ":" in target:
            continue
        file = page.parent / target if target else page
        if not file.exists():
            yield link.start(), f"{link[1]}: there is no such file"
        elif anchor and anchor not in anchors(file):
            yield link.start(), f"{link[1]}: there is no such heading"


@cache
def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def _names(root: Path, code: str, at: int, python: bool) -> Iterator[tuple[int, str]]:
    for match in PATH.finditer(code):
        if what := path_fault(root, match[1].rstrip("."), match[2]):
            yield at + match.start(), what
    if python:
        for dotted in _imported(code):
            if dotted.split(".")[0] in ROOMS and not is_module(root, dotted):
                yield at, f"{dotted}: there is no such module"
        return
    for match in DOTTED.finditer(code):
        if what := dotted_fault(root, match[1]):
            yield at + match.start(), what
    for match in MAKE.finditer(code):
        if match[1] not in targets(root):
            yield at + match.start(), f"make {match[1]}: there is no such target"
    for match in COMMAND.finditer(code):
        if what := command_fault(match[1], match[2]):
            yield at + match.start(), what


def path_fault(root: Path, path: str, function: str | None = None) -> str | None:
    """What is wrong with a path of the repository, or with the test that is named in it."""
    file = root / path
    if not file.exists():
        return f"{path}: there is no such path"
    if function and not re.search(rf"^\s*(async )?def {function}\(", file.read_text(), re.M):
        return f"{path}::{function}: there is no such test"
    return None


def _imported(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def dotted_fault(root: Path, dotted: str) -> str | None:
    """What is wrong with a dotted name that begins like a package, a benchmark or a section."""
    top, last = dotted.split(".")[0], dotted.split(".")[-1]
    if top not in (*ROOMS, "benchmarks", *sections()) or last in SUFFIXES:
        return None
    if is_key(dotted) or is_module(root, dotted) or (top == "env" and hasattr(TextEnv, last)):
        return None
    return f"{dotted}: there is no such key or module"


def sections() -> dict[str, typing.Any]:
    """Sections of the configuration by name."""
    hints = typing.get_type_hints(RunConfig)
    return {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}


def is_key(dotted: str) -> bool:
    """Whether the schema has the key, or a section of this name."""
    kind: typing.Any = RunConfig
    parts = dotted.split(".")
    for number, part in enumerate(parts):
        if not dataclasses.is_dataclass(kind):
            free = dict in (kind, typing.get_origin(kind))
            known = parts[:2] != ["env", "settings"] or part in SETTINGS
            return free and known and number > 0
        hints = typing.get_type_hints(kind)
        if part not in hints:
            return False
        kind = hints[part]
    return True


def is_module(root: Path, dotted: str) -> bool:
    """Whether a dotted name is a module, or a name at the top of one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        path = root.joinpath(*parts[:end])
        file = (
            path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        )
        if path.is_dir() and end == len(parts):
            return True
        if file.is_file():
            return end == len(parts) or parts[end] in _top_names(file)
    return False


@cache
def _top_names(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        for target in [*getattr(node, "targets", []), getattr(node, "target", None)]:
            names |= (
                {n.id for n in ast.walk(target) if isinstance(n, ast.Name)} if target else set()
            )
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


@cache
def targets(root: Path) -> set[str]:
    """Targets of the Makefile."""
    return set(re.findall(r"^([a-z][a-z-]*):", (root / "Makefile").read_text(), re.M))


def command_fault(name: str, rest: str) -> str | None:
    """What is wrong with a command of `cardinal` or with the options that follow it."""
    text = help_of(name)
    if text is None:
        return f"cardinal {name}: there is no such command"
    wrong = [o for o in OPTION.findall(rest) if o != "--help" and o not in text]
    return f"cardinal {name} {wrong[0]}: there is no such option" if wrong else None


@cache
def help_of(name: str) -> str | None:
    """What `cardinal NAME --help` prints; None where there is no such command."""
    from cluster.cli import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        try:
            main([name, "--help"])
        except SystemExit as end:
            return printed.getvalue() if end.code == 0 else None
    return None


def files_in_section(page: Path, heading: str) -> list[str]:
    """The repository's files named in the numbered list of a section, each once, in order."""
    section = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    items = re.findall(r"^\d+\. .*(?:\n   .*)*", section, re.M)
    named = [m[1] for item in items for m in PATH.finditer(item) if m[1].endswith(".py")]
    return list(dict.fromkeys(named))
