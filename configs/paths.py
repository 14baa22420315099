"""Where the checkout is: the import root, which jobs and workers get as it is."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent


def is_uri(place: str) -> bool:
    """Whether a place is a URI, as s3://BUCKET/PREFIX, and not a folder of this machine."""
    return "://" in place


def below(place: str, *names: str) -> str:
    """A folder below a folder or a URI, before the URI's options; names are folders' own."""
    if not is_uri(place):
        return "/".join([place.rstrip("/"), *names])
    root, mark, options = place.partition("?")
    return "/".join([root.rstrip("/"), *(quote(name, safe="") for name in names)]) + mark + options
