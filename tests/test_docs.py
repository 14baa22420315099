"""The documentation names nothing that is not there, and the paths that it lists are short."""

import re
import tomllib
from dataclasses import fields

import pytest
import yaml

from configs.load import load
from configs.paths import ROOT
from configs.schema import OptimizerConfig, PPOConfig, SFTConfig
from tests.support import pages

PAGES = [
    *(ROOT / f"{n}.md" for n in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("*.md")),
]
ARCHITECTURE = ROOT / "docs" / "architecture.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_name_leads_somewhere(page):
    assert pages.faults(ROOT, page) == []


@pytest.mark.parametrize(("path", "most"), [("token", 10), ("weight", 10)])
def test_a_token_and_a_weight_pass_few_files(path, most):
    files = pages.files_in_section(ARCHITECTURE, f"The path of a {path}")
    assert 5 < len(files) <= most, files


def test_the_index_has_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_every_invariant_has_a_reason_and_a_test():
    text = (ROOT / "docs" / "invariants.md").read_text()
    names = [
        "token-in-token-out",
        "alignment",
        "failure-is-not-a-reward",
        "refs-move-bytes-do-not",
        "every-wait-has-a-deadline",
        "weights-are-proven",
        "staleness-is-bounded",
        "loss-invariance",
        "configuration-is-typed",
        "resume-loses-nothing",
        "no-model-output-is-executed",
    ]
    sections = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    assert list(sections) == names
    for name, section in sections.items():
        assert "*Why.*" in section, name
        assert pages.PATH.search(section.split("*Held by.*")[1])[2], name


RECIPES = [
    span
    for span in pages.SPAN.findall((ROOT / "docs" / "algorithms.md").read_text())
    if "=" in span
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_of_an_algorithm_loads_on_the_demo_and_is_the_rows_formula(recipe):
    ppo = load("gp_l", recipe.split()).ppo
    assert "ppo.estimator" not in recipe or ppo.baseline == "mean"  # which the demo replaces
    assert ppo.surrogate != "clip" or ppo.clip_high is None or "ppo.clip=" in recipe


def test_every_recipe_is_found():
    assert len(RECIPES) > 12


def test_the_tests_of_an_algorithm_are_there():
    lines = (ROOT / "docs" / "algorithms.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")][2:]  # after the head
    cells = [row.rstrip(" |").rpartition("|")[2] for row in rows]
    named = {name.strip() for cell in cells for name in cell.split(",")}
    assert len(named) >= 10
    files = [file.as_posix() for file in (ROOT / "tests").rglob("test_*.py")]
    assert [n for n in sorted(named) if not any(f.endswith(f"/{n}.py") for f in files)] == []


@pytest.mark.parametrize(
    ("section", "keys"), [("SFT", [SFTConfig, OptimizerConfig]), ("PPO", [PPOConfig])]
)
def test_the_specification_names_every_key_of_learning(section, keys):
    text = (ROOT / "docs" / "specification.md").read_text()
    text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    names = {field.name for part in keys for field in fields(part)} - {"optimizer"}
    named = set(re.findall(r"`(?:sft\.|ppo\.)?(\w+)(?:=\w+)?`", text))
    assert names - named == set()


def test_the_version_is_one():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    newest = re.search(r"^## (\S+?),", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert newest[1] == version


def test_hosted_ci_runs_what_everyone_runs():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make test"]


def test_hooks_are_the_projects_own_tools():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"  # nothing is downloaded
    assert [hook["id"] for hook in repo["hooks"]] == [
        "ruff-check",
        "ruff-format",
        "mypy",
        "layering",
    ]
    for hook in repo["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")


def test_the_picture_is_drawn_by_its_script(tmp_path):
    from tools import draw_architecture

    draw_architecture.main(["--out", str(tmp_path / "drawn.png")])
    assert (tmp_path / "drawn.png").stat().st_size > 10_000


# --- each rule finds what breaks it -------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("`rollout/engines.py`", "rollout/engines.py: there is no such path"),
        ("`tests/test_docs.py::test_nothing`", "there is no such test"),
        ("[page](absent.md)", "absent.md: there is no such file"),
        ("[page](README.md#absent)", "there is no such heading"),
        ("`rollout.engines`", "rollout.engines: there is no such key or module"),
        ("`learner.engine.Motor`", "learner.engine.Motor: there is no such key or module"),
        ("`ppo.epoch=3`", "ppo.epoch: there is no such key"),
        ("`env.settings.face_rules=ten`", "env.settings.face_rules: there is no such key"),
        ("```\ncardinal train gp_l\n```", "cardinal: is on no PATH; write .venv/bin/cardinal"),
        ("    cat x | cardinal play gp_l", "cardinal: is on no PATH; write .venv/bin/cardinal"),
        ("```\n.venv/bin/cardinal train gp_l ppo.clips=1\n```", "ppo.clips: there is no such key"),
        (
            "    .venv/bin/cardinal gallerie cardinal/VIRL-v0",
            "cardinal gallerie: there is no such command",
        ),
        ("`make tests`", "make tests: there is no such target"),
        ("`cardinal trian gp_l`", "cardinal trian: there is no such command"),
        ("`cardinal train gp_l --resumed`", "cardinal train --resumed: there is no such option"),
        ("```python\nfrom envs.basis import TextEnv\n```", "envs.basis.TextEnv: there is no such"),
        ("```python\nfrom envs.base import Text\n```", "envs.base.Text: there is no such module"),
    ],
)
def test_a_name_that_leads_nowhere_is_found(tmp_path, text, fault):
    for name in ("Makefile", "README.md"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    for room in ("tests", "rollout", "learner", "envs"):
        (tmp_path / room).symlink_to(ROOT / room)
    page = tmp_path / "page.md"
    page.write_text(f"one\n\n{text}\n")
    found = pages.faults(tmp_path, page)
    assert len(found) == 1
    assert found[0].startswith("page.md:")
    assert fault in found[0]


def test_names_that_lead_somewhere_pass(tmp_path):
    page = ROOT / "docs" / "README.md"
    named = """`rollout/engine.py` `rollout.engine` `learner.engine.TrainingEngine` `ppo.clip=0.2`
`env.settings.face_rule=ten` `eval.variants.NAME={a: b}` `report.html` `make test` `env.step`
`cardinal check gp_l --address X` `tests/test_docs.py::test_names_that_lead_somewhere_pass` `make`
"""
    faults = [
        f for _, code, python in pages._code(named) for f in pages._names(ROOT, code, 0, python)
    ]
    assert faults == []
    assert page.name == "README.md"


def test_a_way_counts_each_file_of_its_list_once(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "\n## Way\n`envs/c.py`\n1. `envs/a.py`\n   and `envs/b.py`\n2. `envs/a.py`\n\n`envs/d.py`"
        "\n## Next\n1. `envs/e.py`\n"
    )
    assert pages.files_in_section(page, "Way") == ["envs/a.py", "envs/b.py"]
