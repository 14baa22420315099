"""What an answer says: the cards read and the formula, from any text.

JSON by the rule of `envs.answers`, JSON as the released parser reads it, and the brief line.
Nothing is judged here.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import NamedTuple

from envs.answers import JSONValue, last_answer, last_text, string_field

_SUIT = re.compile(r"(?:\bOF\s+)?[♠♥♦♣♤♡♢♧]\ufe0f?|\b(?:OF\s+)?(?:SPADE|HEART|DIAMOND|CLUB)S?\b")
_BETWEEN_CARDS = re.compile(r"[\s,;\[\]\"']+")
_SUIT_LETTER = re.compile(r"(A|J|Q|K|T|[0-9]{1,2})[SHDC]")
_RANK_WORDS = {
    "ACE": "A",
    "TWO": "2",
    "THREE": "3",
    "FOUR": "4",
    "FIVE": "5",
    "SIX": "6",
    "SEVEN": "7",
    "EIGHT": "8",
    "NINE": "9",
    "TEN": "10",
    "T": "10",
    "JACK": "J",
    "QUEEN": "Q",
    "KING": "K",
}
_LEGACY = {
    "formula": re.compile(r'"formula": "(.*?)"'),
    "cards": re.compile(r'"cards": \[([^\]]+)\]'),
}


class Answer(NamedTuple):
    """cards: names as read, None where none are stated; formula: its text, None where missing."""

    cards: list[str] | None
    formula: str | None


def read_json(text: str) -> Answer:
    """The formula and the cards of the last object that has a formula."""
    answer = last_answer(text, "formula")
    if answer is None:
        return Answer(None, None)
    cards = _listed_cards(answer["cards"]) if "cards" in answer else None
    return Answer(cards, string_field(answer, "formula"))


def _listed_cards(value: JSONValue) -> list[str]:
    if isinstance(value, str):
        return card_names(value)
    items = value if isinstance(value, list) else []
    return [name for item in items if (name := card_name(str(item)))]


def read_brief(text: str, cards: bool, thought: bool) -> Answer:
    """`FORMULA`; with cards `A 5 10 K: FORMULA`; with a thought `THOUGHT; FORMULA`."""
    text = last_text(text)
    names = None
    if cards:
        before, *after = re.split("[:：]", text, maxsplit=1)
        if after:
            names, text = card_names(before), after[0]
    if thought:
        text = text.rpartition(";")[2]
    return Answer(names, text.strip())


def card_name(text: str) -> str:
    """The rank of a card as it is written on it: A, 2 to 10, J, Q, K.

    Suits are left out, because no rule depends on them: `2♠`, `♠2`, `2 of spades`, `spades 2`,
    `2s` are 2. Names and words are read in any case: `Ace`, `jack`, `ten`, `T`. What is none of
    these stays as it is, and is no card; 1 is no ace and 11 no jack, for no card shows them.
    """
    name = _SUIT.sub(" ", _plain(text)).strip(" \t\r\n\"'.")
    if letter := _SUIT_LETTER.fullmatch(name):
        name = letter.group(1)
    return _RANK_WORDS.get(name, name)


def _plain(text: str) -> str:
    """Upper case, full-width forms as plain ones."""
    return unicodedata.normalize("NFKC", text).upper()


def card_names(text: str) -> list[str]:
    """The ranks of the cards in a text, separated by blanks, commas or their suits."""
    words = _BETWEEN_CARDS.split(_SUIT.sub(" ", _plain(text)))
    return [name for word in words if (name := card_name(word))]


def read_legacy(text: str, num_cards: int) -> Answer:
    """Exactly what the released parser reads, its faults included.

    Strict JSON whose cards form a list, or bare numbers in the list, leave no cards at all
    (it then handles a list as text); double quotes stay part of a card's name; a whole answer
    without the very characters `"formula": "..."` has the formula `None`.
    """
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
    match = _LEGACY[name].search(text if name != "cards" else text[: text.rfind("]") + 1])
    if match is None:
        return "None"
    if name == "cards":
        try:
            return [int(part) for part in match.group(1).split(", ")]
        except ValueError:
            return f"[{match.group(1)}]"
    return match.group(1)
