"""Reading answers: any text at all to an action and a stated observation, in linear time.

Two readers: a tolerant one, and the released code's. Nothing is executed, nothing here knows
what the right answer is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

MAX_ANSWER = 8_192  # characters that are read of an answer
FIELDS = ("current observation", "current instruction", "action")

_KEYS = {name: re.compile(rf"[\"']{name}[\"']\s*:\s*") for name in FIELDS}
_LEGACY = {name: re.compile(rf'"{name}": "(.*?)"') for name in FIELDS}
_CLOSE = re.compile(r"\s*(?:[,}\n]|$)")


@dataclass(frozen=True)
class Answer:
    """What an answer says; None where it does not say it.

    landmark_only: the observation is a bare landmark name, as brief answers give it.
    """

    action: str | None
    observation: str | None = None
    landmark_only: bool = False


def read_full(text: str) -> Answer:
    """Read the three-field answer: strict JSON or near it, in prose or a code fence."""
    text = text[:MAX_ANSWER]
    return Answer(_field(text, "action"), _field(text, "current observation"))


def read_legacy(text: str) -> Answer:
    """Read as the released code does: JSON, else one exact pattern, else the word None."""
    text = text[:MAX_ANSWER]
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError):
        loaded = None

    def value(name: str) -> str:
        if isinstance(loaded, dict) and name in loaded:
            return loaded[name] if isinstance(loaded[name], str) else "None"
        found = _LEGACY[name].search(text)
        return found.group(1) if found else "None"

    return Answer(value("action"), value("current observation"))


def read_brief(text: str, vision: bool) -> Answer:
    """Read the bare action, in vision after the landmark and a semicolon."""
    text = text[:MAX_ANSWER].strip()
    if not vision:
        return Answer(text or None)
    landmark, semicolon, action = text.rpartition(";")
    if not semicolon:
        return Answer(text or None, None, True)
    return Answer(action.strip() or None, landmark.strip(), True)


def _field(text: str, name: str) -> str | None:
    """The string value after a quoted key: to the quote that closes it, or to a line's end."""
    key = _KEYS[name].search(text)
    if key is None:
        return None
    begin = key.end()
    quote = text[begin : begin + 1]
    if quote not in ("'", '"'):
        return re.split(r"[,}\n]", text[begin:], maxsplit=1)[0].strip() or None
    position = begin + 1
    while True:
        end = text.find(quote, position)
        if end < 0:
            return text[begin + 1 :].strip()
        # A quote inside a value ("Joe's", in single quotes) is not followed by a separator.
        if text[end - 1] != "\\" and _CLOSE.match(text, end + 1):
            return text[begin + 1 : end].replace("\\" + quote, quote)
        position = end + 1
