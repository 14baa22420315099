"""`cardinal gallery`: writes `gallery.html` and `gallery.png` of an environment's episodes.

Episodes are recorded in episodes.py, the page is made in page.py, the contact sheet in sheet.py.
The same seed gives the same files.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.progress import track

from envs.base import EnvironmentFailure, TextEnv
from envs.viewer.episodes import EpisodeRecord, ExpertWithSlips, record_episode
from envs.viewer.page import page
from envs.viewer.sheet import draw_sheet


def write_gallery(
    env: TextEnv, env_id: str, settings: Mapping[str, object], n: int, seed: int, folder: str | Path
) -> Path:
    """Run n episodes, from `seed` onwards, and write both files; returns the page's path.

    Raises:
        EnvironmentFailure: an episode failed; names its seed and the cause.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    policy, episodes = ExpertWithSlips(), []
    quiet = not sys.stdout.isatty()
    for number in track(range(seed, seed + n), "episodes", disable=quiet, transient=True):
        episodes.append(_episode(env, number, policy))
    settings_line = " ".join(f"{name}={value}" for name, value in settings.items())
    draw_sheet(env_id, settings_line, episodes).save(target / "gallery.png", optimize=True)
    (target / "gallery.html").write_text(page(env_id, settings_line, episodes), "utf-8")
    return target / "gallery.html"


def _episode(env: TextEnv, seed: int, policy: ExpertWithSlips) -> EpisodeRecord:
    try:
        return record_episode(env, seed, policy)
    except EnvironmentFailure as error:
        raise EnvironmentFailure(f"the episode of seed {seed} failed: {error}") from error
