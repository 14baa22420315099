"""The answer in a model's text: the JSON object that counts, as both environments read it.

Input: any text. Output: the object as a dict, or None. Linear time; nothing is executed.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from typing import NamedTuple, TypeAlias

JSONValue: TypeAlias = "bool | int | float | str | list[JSONValue] | dict[str, JSONValue] | None"

MAX_ANSWER = 32_768
"""Characters that are read, from the end of the text."""
MAX_DEPTH = 32
"""Levels of objects and arrays; what is deeper is no answer."""
MAX_NUMBER = 32
"""Characters of a number; a longer one stays text."""

_TAG = re.compile(r"<(/?)(?:think(?:ing)?|thought|reasoning)>", re.IGNORECASE)
_TAG_OR_OBJECT = re.compile(rf"{_TAG.pattern}|\{{", re.IGNORECASE)
_CONTAINER = re.compile(r"[{\[]")
_SEPARATORS = re.compile(r"[\s,]*")
_COLON = re.compile(r"\s*:\s*")
_BARE = re.compile(r"[^,{}\[\]\n]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_QUOTES = {
    quote: re.compile(rf"(?<!\\)(?:\\\\)*({quote})(?=(\s*[,:}}\]]|[ \t\r]*\n)?)")
    for quote in ('"', "'")
}
"""Each quote that no backslash escapes; group 2 is there where it may close a string."""
_STOP = re.compile(r"[{\n]")
_ESCAPE = re.compile(
    r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))",
    re.DOTALL,
)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ITSELF = "\"'\\/"
_WORDS: dict[str, JSONValue] = {
    "null": None,
    "None": None,
    "true": True,
    "True": True,
    "false": False,
    "False": False,
}


def last_answer(text: str, key: str | None = None) -> dict[str, JSONValue] | None:
    """The object that counts as the answer: the last one outside a thought.

    A thought stands between `<think>` and `</think>` (or `thinking`, `thought`, `reasoning`, in
    any case), and is no answer. One that is never closed reaches to the end of the text; one that
    is never opened reaches from its beginning, because some prompts end with the opening tag.
    Tags within an object are part of it. Of a text of more than MAX_ANSWER characters the end
    is read.

    Every strict JSON object is read as JSON says; of a key that occurs twice the last value
    counts. Also read are

    - prose and code fences around the object;
    - strings in single quotes, line breaks in strings, a backslash before any character;
    - trailing and doubled commas, and a missing one at the end of a line;
    - a value without quotes up to the next comma, bracket or line's end: a JSON word or number,
      `None`, `True`, `False`, else text (`[A, 10]`, `forward()`);
    - a quote inside a string, where no comma, colon, closing bracket or line's end follows it
      and the string has neither an opening brace nor a line break (`'Joe's'`).

    An object that is not closed and an empty one are no answers.

    Args:
        text: anything.
        key: only objects with this key are answers; None for any key.
    """
    begin, inside = _beginning(text)
    reader = _Reader(text[begin:])
    answer: dict[str, JSONValue] | None = None
    position = 0
    while event := _TAG_OR_OBJECT.search(reader.text, position):
        position = event.end()
        if event.group() != "{":
            closes = bool(event.group(1))
            if closes and not inside:
                answer = None
            inside = not closes
        elif not inside and (read := reader.containers.get(event.start())):
            position = read.end
            if isinstance(read.value, dict) and read.value and (key is None or key in read.value):
                answer = read.value
    return answer


def last_text(text: str) -> str:
    """The last text outside a thought that is not blank, stripped: an answer that is no JSON.

    Thoughts and the length are those of `last_answer`.
    """
    begin, inside = _beginning(text)
    answer, position = "", begin
    for tag in _TAG.finditer(text, begin):
        closes = bool(tag.group(1))
        if closes and not inside:
            answer = ""
        elif not inside:
            answer = text[position : tag.start()].strip() or answer
        inside, position = not closes, tag.end()
    return answer if inside else text[position:].strip() or answer


def string_field(answer: dict[str, JSONValue] | None, name: str) -> str | None:
    """The text of a field; None where there is no such field or it is no string."""
    value = None if answer is None else answer.get(name)
    return value if isinstance(value, str) else None


def _beginning(text: str) -> tuple[int, bool]:
    """Where the part that is read begins, and whether that is inside a thought.

    Its length is counted back from the last character that can belong to an answer: blanks and a
    thought that stays open at the end do not crowd it out.
    """
    end, inside, opened = len(text.rstrip()), False, 0
    for tag in _TAG.finditer(text):
        opens = not tag.group(1)
        opened = tag.start() if opens and not inside else opened
        inside = opens
    if inside:
        end = len(text[:opened].rstrip())
    begin, inside = max(0, end - MAX_ANSWER), False
    for tag in _TAG.finditer(text):
        if tag.start() >= begin:
            break
        inside = not tag.group(1)
        begin = max(begin, tag.end())  # a tag is not cut
    return begin, inside


class _Read(NamedTuple):
    """A value, the position after it, and its levels of containers."""

    value: JSONValue
    end: int
    depth: int


class _Reader:
    """Every object and array of a text, by the position of its opening bracket.

    They are read from the last to the first, so that what a container holds has been read
    before it: each is read once, without recursion.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.quotes = {
            quote: [(m.start(1), m.group(2) is not None) for m in pattern.finditer(text)]
            for quote, pattern in _QUOTES.items()
        }
        end = len(text)  # stands after the last of each, where there is none
        self.closing = {
            quote: [*(at for at, closes in marks if closes), end]
            for quote, marks in self.quotes.items()
        }
        self.stops = [*(m.start() for m in _STOP.finditer(text)), end]
        self.containers: dict[int, _Read] = {}
        for opening in reversed([m.start() for m in _CONTAINER.finditer(text)]):
            read = self._container(opening)
            if read is not None:
                self.containers[opening] = read

    def _container(self, opening: int) -> _Read | None:
        text, is_object = self.text, self.text[opening] == "{"
        names: list[str] = []
        items: list[JSONValue] = []
        end, depth = opening + 1, 1
        while True:
            begin = _end(_SEPARATORS, text, end)
            if text.startswith("}" if is_object else "]", begin):
                value = dict(zip(names, items, strict=True)) if is_object else items
                return _Read(value, begin + 1, depth)
            # A member follows the opening bracket, a comma or a line's end.
            if items and not {",", "\n"} & set(text[end:begin]):
                return None
            if is_object:
                name = self._string(begin)
                if name is None or (colon := _COLON.match(text, name[1])) is None:
                    return None
                names.append(name[0])
                begin = colon.end()
            read = self._value(begin)
            if read is None or read.depth == MAX_DEPTH:
                return None
            items.append(read.value)
            end, depth = read.end, max(depth, read.depth + 1)

    def _value(self, begin: int) -> _Read | None:
        if self.text.startswith(("{", "["), begin):
            return self.containers.get(begin)
        if self.text.startswith(tuple(_QUOTES), begin):
            string = self._string(begin)
            return string and _Read(*string, 0)
        bare = _BARE.match(self.text, begin)
        return bare and _Read(_bare_value(bare.group().strip()), bare.end(), 0)

    def _string(self, begin: int) -> tuple[str, int] | None:
        """The string whose opening quote is at `begin`, and the position after it."""
        quote = self.text[begin : begin + 1]
        if quote not in _QUOTES:
            return None
        marks = self.quotes[quote]
        following = bisect_right(marks, (begin, True))
        if following == len(marks):
            return None
        end, closes = marks[following]
        if not closes:
            closing = self.closing[quote]
            end = closing[bisect_right(closing, end)]
            if end >= self.stops[bisect_right(self.stops, begin)]:
                return None
        return _unescaped(self.text[begin + 1 : end]), end + 1


def _end(pattern: re.Pattern[str], text: str, begin: int) -> int:
    match = pattern.match(text, begin)
    return match.end() if match else begin


def _bare_value(word: str) -> JSONValue:
    if word in _WORDS:
        return _WORDS[word]
    number = _NUMBER.fullmatch(word)
    if number is None or len(word) > MAX_NUMBER:
        return word
    value = json.loads(word)
    return value if math.isfinite(value) else word


def _unescaped(content: str) -> str:
    return _ESCAPE.sub(_escaped_character, content) if "\\" in content else content


def _escaped_character(escape: re.Match[str]) -> str:
    high, low, single, character = escape.groups()
    if high:
        return chr(0x10000 + ((int(high, 16) & 0x3FF) << 10) + (int(low, 16) & 0x3FF))
    if single:
        return chr(int(single, 16))
    return _ESCAPED.get(character) or (character if character in _ITSELF else escape.group())
