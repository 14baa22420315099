"""What an answer says: the cards read and the formula, from any text in the asked-for format.

In: text of a model. Out: `Answer`. Formats: JSON as people and models write it, JSON as the
released parser reads it, and the brief line. Linear time; does not judge.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

MAX_ANSWER = 32_768

_OBJECT = re.compile(r"\{[^{}]*\}")
_FORMULA = re.compile(r"""["']formula["']\s*:\s*(?:"([^"\n]*)"|'([^'\n]*)')""")
_CARDS = re.compile(r"""["']cards["']\s*:\s*\[([^\[\]]*)\]""")
_LEGACY = {
    "formula": re.compile(r'"formula": "(.*?)"'),
    "cards": re.compile(r'"cards": \[([^\]]+)\]'),
}


class Answer(NamedTuple):
    """cards: names as read, None where none are stated; formula: its text, None where missing."""

    cards: list[str] | None
    formula: str | None


def read_json(text: str) -> Answer:
    """The last {...} that holds a formula; quotes single or double, trailing commas, prose."""
    for candidate in reversed(_OBJECT.findall(text[:MAX_ANSWER])):
        formulas = _FORMULA.findall(candidate)
        if formulas:
            cards = _CARDS.findall(candidate)
            return Answer(_names(cards[-1].split(",")) if cards else None, "".join(formulas[-1]))
    return Answer(None, None)


def read_brief(text: str, cards: bool, thought: bool) -> Answer:
    """`FORMULA`; with cards `A 5 10 K: FORMULA`; with a thought `THOUGHT; FORMULA`."""
    text = text[:MAX_ANSWER]
    names = None
    if cards:
        before, colon, after = text.partition(":")
        if colon:
            names, text = _names(before.split()), after
    if thought:
        text = text.rpartition(";")[2]
    return Answer(names, text.strip())


def _names(parts: list[str]) -> list[str]:
    return [name for part in parts if (name := part.strip(" \t\r\n\"'").upper())]


def read_legacy(text: str, num_cards: int) -> Answer:
    """Exactly what the released parser reads, its faults included.

    Strict JSON whose cards form a list, or bare numbers in the list, leave no cards at all
    (it then handles a list as text); double quotes stay part of a card's name; a whole answer
    without the very characters `"formula": "..."` has the formula `None`.
    """
    text = text[:MAX_ANSWER]
    formula = _legacy_field(text, "formula")
    cards = _legacy_field(text, "cards")
    names: list[str] = []
    if isinstance(cards, str):
        for character in "[]' ":
            cards = cards.replace(character, "")
        names = cards.split(",")
    return Answer(
        names if len(names) == num_cards else [],
        formula.split("=")[0] if isinstance(formula, str) else "None",
    )


def _legacy_field(text: str, name: str) -> object:
    try:
        return json.loads(text)[name]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        pass
    # Cut after the last "]": a search for it from each of many "cards" would be quadratic.
    found = _LEGACY[name].search(text if name != "cards" else text[: text.rfind("]") + 1])
    if found is None:
        return "None"
    if name == "cards":
        try:
            return [int(part) for part in found.group(1).split(", ")]
        except ValueError:
            return f"[{found.group(1)}]"
    return found.group(1)
