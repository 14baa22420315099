"""Message templates: files of the user's that stand in for an environment's own texts.

A template is plain text with `$field` or `${field}`; `$$` is a dollar sign, and braces mean
nothing. Filling one runs no code. The line break that ends the file is no part of the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import NamedTuple


class Fields(NamedTuple):
    """The fields that a message's template may have, and those that it must have."""

    allowed: tuple[str, ...]
    required: tuple[str, ...] = ()


def read_templates(
    paths: Mapping[str, str], messages: Mapping[str, Fields], where: str
) -> dict[str, Template]:
    """Read and check the templates.

    Args:
        paths: the file of each message that has a template, by the message's name.
        messages: the fields of every message that can have one.
        where: the name of the settings' key in errors.

    Raises:
        ValueError: names the message, the file and the rule.
    """
    return {name: _read(name, path, messages, f"{where}.{name}") for name, path in paths.items()}


def _read(name: str, path: str, messages: Mapping[str, Fields], key: str) -> Template:
    if name not in messages:
        raise ValueError(f"{key}: there is no such message; there are {', '.join(messages)}")
    try:
        template = Template(Path(path).read_text(encoding="utf-8").removesuffix("\n"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{key}={path}: cannot be read as UTF-8 text: {error}") from error
    fields = messages[name]
    if not template.is_valid():
        raise ValueError(f"{key}={path}: a $ must begin a field; write $$ for a dollar sign")
    for field in template.get_identifiers():
        if field not in fields.allowed:
            there = ", ".join(f"${allowed}" for allowed in fields.allowed) or "no fields"
            raise ValueError(f"{key}={path}: there is no field ${field}; there are {there}")
    for field in fields.required:
        if field not in template.get_identifiers():
            raise ValueError(f"{key}={path}: must have the field ${field}")
    return template
