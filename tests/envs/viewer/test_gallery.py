"""A gallery's two files: what is in them, for every task and for a third party's environment."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from cluster.cli import main
from configs.paths import ROOT
from envs.base import EnvironmentFailure
from envs.registry import make
from envs.viewer.gallery import write_gallery
from tests.support.slow import fast

GP, VIRL = "cardinal/GeneralPoints-v0", "cardinal/VIRL-v0"
DOCS = ROOT / "docs" / "environments.md"
TASKS = [
    (GP, {"prompt_style": "brief"}, 0),
    (GP, {"modality": "vision", "image_size": 96}, 4),
    (VIRL, {"prompt_style": "brief"}, 2),
    (VIRL, {"modality": "vision", "image_size": 48, "city": "Lagos"}, None),
]
"""Id, settings, and how many pictures the page of the test below holds (None: one a prompt)."""


@pytest.mark.parametrize(("env_id", "settings", "pictures"), fast(TASKS[:3], TASKS))
def test_every_task_has_a_page_and_a_sheet(env_id, settings, pictures, tmp_path):
    n = 4 if env_id == GP else 2
    page = write_gallery(make(env_id, settings), env_id, settings, n, 0, tmp_path)
    text = page.read_text("utf-8")
    trials = text.count("<div class=trial>")
    expected = trials + 2 if pictures is None else pictures
    assert text.count("src='data:image/") == text.count("<img") == expected
    assert not re.search(r"(src|href)='?https?:", text)
    assert "class='answer good'" in text
    assert "class='answer bad'" in text
    with Image.open(tmp_path / "gallery.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 1000
        assert sheet.height > 500


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    settings = {"modality": "vision", "image_size": 64}
    for name in ("a", "b"):
        write_gallery(make(GP, settings), GP, settings, 4, 9, tmp_path / name)
    for file in ("gallery.html", "gallery.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_third_partys_environment_through_the_command(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL).group(1)
    (tmp_path / "sums_shown.py").write_text(code.replace("example/Sums-v0", "example/Shown-v0"))
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    arguments = ["gallery", "sums_shown:example/Shown-v0", "largest=50", "--n", "5"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / 'gallery.html'}\n"
    text = (out / "gallery.html").read_text()
    assert "largest=50" in text
    assert ">right</b>" in text
    assert ">wrong</b>" in text


def test_a_failed_episode_is_named(tmp_path, monkeypatch):
    env = make(GP, {})

    def broken(**_):
        raise EnvironmentFailure("no cards left")

    monkeypatch.setattr(env, "reset", broken)
    with pytest.raises(EnvironmentFailure, match="the episode of seed 3 failed: no cards left"):
        write_gallery(env, GP, {}, 1, 3, tmp_path)


def test_no_episodes_are_refused(tmp_path, capsys):
    assert main(["gallery", GP, "--n", "0", "--out", str(tmp_path)]) == 2
    assert "--n 0: must be at least 1" in capsys.readouterr().err
