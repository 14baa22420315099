"""What a stated observation says: which landmark is where, and whether this is an intersection.

Input: the text of an answer and the point of the rail. Output: whether it states exactly what is
there. Case, compatible characters, kinds of quotes and dashes do not matter.
"""

from __future__ import annotations

import re
import unicodedata

from envs.virl.rail import Point
from envs.virl.route import DESTINATION

NOTHING = frozenset(
    ("no landmarks nearby", "no landmark nearby", "no landmarks", "no landmark", "none", "nothing")
)
_FILLERS = frozenset(("is", "are", "on", "to", "in", "at", "of", "your", "you", "the", "side"))
_INTERSECTION = frozenset(
    ("you", "observe", "see", "are", "at", "a", "an", "the", "no", "not", "intersection")
)
_DESTINATION = DESTINATION.casefold()
_MARKS = " .,;"
_ALIKE = str.maketrans("‘’“”–—−", "''\"\"---")


def fold(text: str) -> str:
    """The text without what does not matter: `Joe’s  CAFE` and `joe's cafe` are one."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = text.translate(_ALIKE)
    return " ".join(text.casefold().split())


def states_landmark(stated: str, point: Point) -> bool:
    """Whether exactly the landmark of the point is stated with its side, or none where none is."""
    return any(_is_landmark(clause, point) for clause in (fold(stated), _split(stated)[0]))


def states_intersection(stated: str, point: Point) -> bool:
    """Whether an intersection is stated, besides the landmark."""
    return _split(stated)[1] and not _is_landmark(fold(stated), point)


def mentions(stated: str, name: str) -> bool:
    """Whether a name stands in a text, in whole words."""
    return re.search(rf"(?<!\w){re.escape(fold(name))}(?!\w)", fold(stated)) is not None


def _split(stated: str) -> tuple[str, bool]:
    """What stands before the clause on the intersection, and what that clause says."""
    text = fold(stated).rstrip(_MARKS)
    at = max(text.rfind(mark) for mark in (";", ". ", ", "))
    words = text[at + 1 :].split()
    if "intersection" not in words or not _INTERSECTION.issuperset(words):
        return text, False
    return text[: max(at, 0)].rstrip(_MARKS), not {"no", "not"} & set(words)


def _is_landmark(clause: str, point: Point) -> bool:
    """Whether a folded clause is NAME and SIDE, with none but small words around them."""
    if point.landmark is None:
        return clause.rstrip(_MARKS) in NOTHING
    name = fold(point.landmark.name)
    for text in (clause, clause.removeprefix(_DESTINATION)):
        after = text.removeprefix(name)
        if text.startswith(name) and (not after or after[0] in " ,:("):
            words = [word.strip(_MARKS + ":()") for word in after.split()]
            if " ".join(word for word in words if word not in _FILLERS).strip() == point.side:
                return True
    return False
