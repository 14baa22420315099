"""Where the checkout is: the import root, which jobs and workers get as it is."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def below(place: str, *names: str) -> str:
    """A folder below a folder or a URI, before the URI's options."""
    root, mark, options = place.partition("?")
    return "/".join([root.rstrip("/"), *names]) + mark + options
