"""YAML and types: what is written is read back, by this reader and by one of YAML 1.1."""

import dataclasses
import re
import types
import typing
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.leaf import leaf
from configs.load import build, dump
from configs.schema import RunConfig
from configs.values import Plain, read_yaml, rule, typed, untyped, write_yaml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "2025_11_25",
        "007",
        "1e3",
        "12:30:45",
        "yes",
        "null",
        "~",
        "???",
        "${x}",
        "\\${x}",
        "<<",
        "=",
        "1.5",
        "5",
        "-0",
        ".inf",
        "a: b",
        "a #b",
        "[x",
        "- x",
        "true",
        "0x1F",
        "2025-11-25",
        " x ",
        "a\x85b",
        "\u2028",
        "\ufeff",
        "größe",
    ]
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SETTINGS = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def values(kind, rule):
    """Any value of a key that its declaration allows."""
    if kind is types.NoneType:
        return st.none()
    if rule.get("choices"):
        return st.sampled_from(rule["choices"])
    if isinstance(kind, types.UnionType):
        return st.one_of(*(values(member, rule) for member in typing.get_args(kind)))
    if kind is bool:
        return st.booleans()
    if kind is int:
        high = 2**62 if rule.get("high") is None else int(rule["high"])
        return st.integers(int(rule["low"] or 0) if rule["low"] is not None else None, high)
    if kind is float:
        bounds = {"min_value": rule["low"], "max_value": rule["high"]}
        return st.floats(**bounds, allow_nan=False, allow_infinity=False)
    if kind is str:
        return TEXT
    if typing.get_origin(kind) is list:
        return st.lists(values(typing.get_args(kind)[0], {"low": None}), max_size=3)
    assert kind == dict[str, Any], kind
    return st.dictionaries(TEXT, SETTINGS, max_size=3)


def sections(cls):
    """Any configuration of a section."""
    hints = typing.get_type_hints(cls)
    return st.builds(
        cls,
        **{
            f.name: sections(hints[f.name])
            if dataclasses.is_dataclass(hints[f.name])
            else values(hints[f.name], f.metadata)
            for f in dataclasses.fields(cls)
        },
    )


@settings(max_examples=30)
@given(sections(RunConfig))
def test_every_configuration_survives_writing_and_reading(cfg):
    text = dump(cfg)
    assert build(RunConfig, read_yaml(text), "") == cfg
    assert yaml.safe_load(text) == dataclasses.asdict(cfg)


@settings(max_examples=150)
@given(SETTINGS)
def test_what_no_type_is_declared_for_survives_too(value):
    assert untyped(read_yaml(write_yaml(value))) == value
    assert yaml.safe_load(write_yaml(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("0", 0),
        ("1.5", 1.5),
        ("1e-6", 1e-6),
        (".5", 0.5),
        ("-1.", -1.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("+5", "+5"),
        ("-0", "-0"),
        ("007", "007"),
        ("1_0", "1_0"),
        ("1:30", "1:30"),
        ("on", "on"),
        ("e5", "e5"),
        ("2025-11-25", "2025-11-25"),
        ("-.inf", float("-inf")),
        ("0x10", "0x10"),
        (".", "."),
    ],
)
def test_a_plain_scalar_is_a_number_only_where_json_has_it(text, value):
    read = untyped(Plain(text))
    assert (read, type(read)) == (value, type(value))
    assert untyped(read_yaml(f"'{text}'")) == text
    assert untyped(read_yaml(f"!!str {text}")) == text


def test_keys_are_text():
    assert untyped(read_yaml("{1: a, yes: {007: b}, 'x': c}")) == {
        "1": "a",
        "yes": {"007": "b"},
        "x": "c",
    }


def test_anchors_and_merges_are_read():
    assert untyped(read_yaml("a: &x {n: 1, m: 2}\nb: {<<: *x, n: 3}")) == {
        "a": {"n": 1, "m": 2},
        "b": {"n": 3, "m": 2},
    }


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "a: [", "!!python/object:os.x {}", "? [a]\n: 1"])
def test_what_is_no_plain_yaml_is_refused(text):
    with pytest.raises(yaml.YAMLError):
        read_yaml(text)


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (int, 3.0, 3),
        (int, "1e3", 1000),
        (int, Plain("-1_000"), -1000),
        (int, "00", 0),
        (float, 3, 3.0),
        (float, Plain(".inf"), float("inf")),
        (float, "1_0.5", 10.5),
        (bool, "off", False),
        (bool, Plain("Yes"), True),
        (str, 5, "5"),
        (str, Plain(""), ""),
        (str | None, Plain("null"), None),
        (str | None, "null", "null"),
        (Any, None, None),
        (typing.Union[int, None], Plain(""), None),  # noqa: UP007 - as older schemas write it
        (list[str], [Plain("1e3")], ["1e3"]),
        (dict[str, str], {"a": Plain("yes")}, {"a": "yes"}),
        (dict, {"a": Plain("1")}, {"a": 1}),
        (list, [Plain("1")], [1]),
        (int | str, Plain("5"), 5),
    ],
)
def test_values_become_their_keys_type(kind, value, read):
    found = typed(kind, value, "k")
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("kind", "value", "sentence"),
    [
        (int, "1e30", "k='1e30': must be a whole number"),
        (int, float("inf"), "k=inf: must be a whole number"),
        (int, True, "k=True: must be a whole number"),
        (int, [1], "k=[1]: must be a whole number"),
        (float, False, "k=False: must be a number"),
        (float, "x", "k='x': must be a number"),
        (bool, 1, "k=1: must be true or false"),
        (str, None, "k=None: must be text"),
        (str, 1.0, "k=1.0: must be text; quotes make it text"),
        (str | None, [1], "k=[1]: must be text or null"),
        (list[int], ["a"], "k[0]='a': must be a whole number"),
        (list[int], {"a": 1}, "k={'a': 1}: must be a list, such as [a, b]"),
        (dict[str, int], {"a": "x"}, "k.a='x': must be a whole number"),
        (dict[str, int], [1], "k=[1]: must be keys and values"),
    ],
)
def test_what_is_of_another_type_is_refused(kind, value, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        typed(kind, value, "k")


def test_a_type_that_no_key_can_have_is_named():
    assert rule(complex) == "<class 'complex'>"


def test_sections_of_other_schemas_are_built_the_same():
    @dataclasses.dataclass(frozen=True)
    class Inner:
        words: list[str] = leaf([], "words")

    @dataclasses.dataclass(frozen=True)
    class Outer:
        inner: Inner = leaf(Inner)
        share: float = leaf(0.0, "a share")

    given = read_yaml("{inner: {words: [007, yes]}, share: 1}")
    assert build(Outer, given, "") == Outer(Inner(["007", "yes"]), 1.0)
