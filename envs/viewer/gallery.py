"""`cardinal gallery`: an environment in, `gallery.html` and `gallery.png` of its episodes out.

The episodes are played in gallery_episodes.py, the page is written in gallery_page.py, the
contact sheet drawn in gallery_sheet.py. The same seed gives the same files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.progress import track

from envs.base import EnvironmentFailure, TextEnv
from envs.viewer.episodes import Answers, Episode, play_episode
from envs.viewer.page import page
from envs.viewer.sheet import draw_sheet


def write_gallery(
    env: TextEnv, env_id: str, settings: dict[str, Any], n: int, seed: int, folder: str | Path
) -> Path:
    """Play n episodes, seeds `seed` onwards, and write both files; returns the page's path.

    Raises:
        EnvironmentFailure: an episode failed; names its seed and the cause.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    answers, episodes = Answers(), []
    quiet = not sys.stdout.isatty()
    for number in track(range(seed, seed + n), "episodes", disable=quiet, transient=True):
        episodes.append(_episode(env, number, answers))
    said = " ".join(f"{name}={value}" for name, value in settings.items())
    draw_sheet(env_id, said, episodes).save(target / "gallery.png", optimize=True)
    (target / "gallery.html").write_text(page(env_id, said, episodes), "utf-8")
    return target / "gallery.html"


def _episode(env: TextEnv, seed: int, answers: Answers) -> Episode:
    try:
        return play_episode(env, seed, answers)
    except EnvironmentFailure as error:
        raise EnvironmentFailure(f"the episode of seed {seed} failed: {error}") from error
