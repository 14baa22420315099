"""Writes docs/configuration.md, every key of the schema: `python -m configs.docs > FILE`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator

from configs.presets import PRESET_KEYS
from configs.schema import RunConfig

HEAD = """# Configuration

A run is a YAML file and `key=value` overrides; what is not given has the default below.
Environment settings stand under `env.settings`; their schemas are
`envs/general_points/settings.py` and `envs/virl/settings.py`; what `sft.data` may hold is in
[demonstrations.md](demonstrations.md).
Unknown keys, wrong types, values out of range and contradictions are refused before anything
starts.

A text key takes its value as it stands: `name=007`, `name=12:30`; quotes are taken off. Numbers may
be `1e3` or `1_000`. Where no type is declared (`env.settings`) a value is a number, true, false or
null in the forms of JSON, and text otherwise; a setting that is text and has such a form needs
quotes (`"env.settings.city='1e3'"`).

A mapping given as a whole, as `env.settings={}` or `'env.settings={modality: vision}'`, takes the
place of the file's, which another `env.id` needs; `env.settings.modality=vision` adds to it.
Sections
(`'ppo={epochs: 2}'`) keep the keys that are not given.

This page is made by `python -m configs.docs > docs/configuration.md`.
"""


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join([HEAD, *_section(RunConfig, ""), *_presets(), ""])


def _section(cls: type, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    flat = [f for f in fields if not dataclasses.is_dataclass(hints[f.name])]
    yield f"## {prefix.rstrip('.') or 'run'}\n\n{(cls.__doc__ or '').strip()}\n"
    if flat:
        yield "| key | default | meaning |\n| --- | --- | --- |"
        for field in flat:
            yield f"| `{prefix}{field.name}` | `{_default(field)}` | {_meaning(field)} |"
    yield ""
    for field in fields:
        if field not in flat:
            yield from _section(hints[field.name], f"{prefix}{field.name}.")


def _default(field: dataclasses.Field[object]) -> str:
    factory = field.default_factory
    value = field.default if factory is dataclasses.MISSING else factory()
    return "null" if value is None else str(value).lower() if value in (True, False) else str(value)


def _meaning(field: dataclasses.Field[object]) -> str:
    rule = field.metadata
    parts = [rule["doc"]]
    if rule["choices"]:
        parts.append("one of " + ", ".join(f"`{c}`" for c in rule["choices"]))
    if rule["low"] is not None or rule["high"] is not None:
        low, high = rule["low"], rule["high"]
        parts.append(f"from {low:g}" if high is None else f"{low:g} to {high:g}")
    return "; ".join(parts)


def _presets() -> Iterator[str]:
    yield (
        "## Presets\n\nWhat `preset` puts above the defaults; `fixed` changes nothing here. The "
        "file's keys stand above it.\nEvaluations sample as training does, and every variant's "
        "environment has the preset too.\n"
    )
    for name, keys in PRESET_KEYS.items():
        if keys:
            yield f"- `{name}`: " + ", ".join(f"`{k}={v}`" for k, v in keys.items())


if __name__ == "__main__":
    print(page(), end="")
