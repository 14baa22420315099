"""Reading answers: any text at all to an action and a stated observation, in linear time.

Two readers of the answer in JSON, a tolerant one and the released code's, and one of the brief
answer. None grades.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass

from envs.answers import last_answer, last_text, string_field

ACTION, OBSERVATION = "action", "current observation"
_LEGACY = {name: re.compile(rf'"{name}": "(.*?)"') for name in (ACTION, OBSERVATION)}


@dataclass(frozen=True)
class Answer:
    """What an answer says; None where it does not say it."""

    action: str | None
    observation: str | None = None


def read_full(text: str) -> Answer:
    """Read the three-field answer as `envs.answers.last_answer` finds it."""
    answer = last_answer(text, ACTION)
    return Answer(_plain(string_field(answer, ACTION)), string_field(answer, OBSERVATION))


def read_brief(text: str, vision: bool) -> Answer:
    """Read the bare action, in vision after the landmark and a semicolon."""
    text = last_text(text)
    landmark, semicolon, action = text.rpartition(";")
    if not vision or not semicolon:
        return Answer(_plain(text))
    return Answer(_plain(action), landmark.strip() or None)


def _plain(action: str | None) -> str | None:
    """An action without blanks around it or its parentheses, full-width forms as plain ones."""
    folded = unicodedata.normalize("NFKC", action or "").strip()
    return re.sub(r"\s*([()])\s*", r"\1", folded) or None


def read_legacy(text: str) -> Answer:
    """Read as the released code does: JSON, else one exact pattern, else the word None."""
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError):
        loaded = None

    def value(name: str) -> str:
        if isinstance(loaded, dict) and name in loaded:
            return _legacy_text(loaded[name])
        match = _LEGACY[name].search(text)
        return match.group(1) if match else "None"

    return Answer(value(ACTION), value(OBSERVATION))


def _legacy_text(value: object) -> str:
    """A field as text; of a list or object the released check asks only for this one member."""
    if isinstance(value, list | dict) and "intersection" in value:
        return "intersection"
    return value if isinstance(value, str) else "None"
