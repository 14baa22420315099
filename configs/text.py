"""Texts of error sentences: the words of a library's error on one line, and the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def one_line(error: BaseException, limit: int | None = 200) -> str:
    """The words of an error without line breaks, at most `limit` characters; else its type."""
    text = f"KeyError: {error}" if isinstance(error, KeyError) else str(error)  # a key says little
    return " ".join(text.split())[:limit] or type(error).__name__


def nearest(name: object, names: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The name most like the given one; None when all are less like it than `cutoff` (0 to 1)."""
    matches = difflib.get_close_matches(str(name), list(names), 1, cutoff)
    return matches[0] if matches else None
