"""Published figures of "SFT Memorizes, RL Generalizes", to compare with a study's own.

Source: Chu et al. (January 2025), arXiv 2501.17161, with an 11-billion-parameter model
(Llama-3.2-Vision-11B). Percent; per-step accuracy where the measure says so.
"""

from __future__ import annotations

from typing import NamedTuple

from report.study.results import Study

SOURCE = "Chu et al. 2025, arXiv 2501.17161"
MODEL = "Llama-3.2-Vision-11B"


class PublishedFigure(NamedTuple):
    """A task's figures out of distribution: at the start, after RL and after SFT, percent."""

    task: str
    shift: str
    measure: str
    start: float
    rl: float
    sft: float


TABLE = (
    PublishedFigure("GP-L", "rule", "success", 11.5, 15.0, 3.4),
    PublishedFigure("GP-VL", "rule", "success", 11.2, 14.2, 5.6),
    PublishedFigure("V-IRL-L", "rule", "per-step accuracy", 80.8, 91.8, 1.3),
    PublishedFigure("V-IRL-VL", "rule", "per-step accuracy", 35.7, 45.0, 2.5),
    PublishedFigure("GP-VL", "picture", "success", 23.6, 41.2, 13.7),
    PublishedFigure("V-IRL-VL", "picture", "success", 16.7, 77.8, 11.1),
)
# Verification iterations to growth of success out of distribution, percentage points, GP-L.
VERIFY = {1: 0.48, 3: 2.15, 5: 2.99, 10: 5.99}

TASKS = {
    ("cardinal/GeneralPoints-v0", "language"): "GP-L",
    ("cardinal/GeneralPoints-v0", "vision"): "GP-VL",
    ("cardinal/VIRL-v0", "language"): "V-IRL-L",
    ("cardinal/VIRL-v0", "vision"): "V-IRL-VL",
}
# Settings that change a task's rule, and those that change what it looks like.
RULE = {"face_rule", "fake_rule", "action_space"}
PICTURE = {"suits", "city", "split", "routes", "image_size", "view_layout"}


def task(study: Study) -> str | None:
    """The paper's name of a study's task; None of another one."""
    config = next((config for config in study.configs.values() if config), {})
    env = config.get("env") or {}
    modality = (env.get("settings") or {}).get("modality", "language")
    return TASKS.get((str(env.get("id", "")).rpartition(":")[2], modality))


def shift(study: Study, variant: str) -> str | None:
    """'rule' or 'picture', whichever the variant changes alone; None in distribution or of both."""
    changed: set[str] = set()
    for config in study.configs.values():
        changed |= set(((config.get("eval") or {}).get("variants") or {}).get(variant) or {})
    rules, pictures = changed & RULE, changed & PICTURE
    if bool(rules) == bool(pictures):
        return None
    return "rule" if rules else "picture"
