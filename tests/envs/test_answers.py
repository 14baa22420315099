"""Answers: what is read of a text, by one rule for all environments."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from envs.answers import MAX_ANSWER, MAX_DEPTH, last_answer, last_text, string_field
from tests.support.effort import assert_turns

WORDS = st.text(st.characters(exclude_categories=[])) | st.text(
    "{}[]\"'\\:,\n </think>ué𝄞", max_size=30
)
OBJECTS = st.dictionaries(WORDS, WORDS, min_size=1, max_size=4)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | WORDS
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
NOISE = st.text() | st.text("{}[]\"'\\:,\n <think/>formula12", max_size=300)


@settings(deadline=None)
@given(OBJECTS, st.booleans(), st.sampled_from([None, 0, 2]))
@example({"a": "</think>"}, False, None)
@example({"a": '{"a": "b"}', "<think>": "\ud800"}, False, None)
def test_strict_json_comes_back_the_same_wherever_it_stands(answer, ascii_only, indent):
    written = json.dumps(answer, ensure_ascii=ascii_only, indent=indent)
    for frame in (
        "{}",
        "  {}\n",
        'Sure, here it is: {} Hope it\'s "right".',
        "```json\n{}\n```",
        '<think>Is it {{"a": "1"}}? It isn\'t {{.</think>{}',
        "It isn't {{hard}}: {}",
        'no opening {{"a": "1"}}</think>\n{}',
        '{{"a": "1"}} no, {}',
        "[{}]",
        '{} <think> or {{"a": "1"}}?',
        '{} <thinking>{{"a": "1"}}</thinking>',
        '{} <THINK>{{"a": "1"}}</Think>',
        '{} <thought>{{"a": "1"}}</thought>',
        '{} <reasoning>{{"a": "1"}}</reasoning>',
    ):
        assert last_answer(frame.format(written)) == answer


@settings(deadline=None)
@given(st.dictionaries(WORDS, VALUES, min_size=1, max_size=4), st.booleans())
def test_any_strict_json_object_is_read_as_json_reads_it(answer, ascii_only):
    written = json.dumps(answer, ensure_ascii=ascii_only)
    assert repr(last_answer(written)) == repr(json.loads(written))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r'{"formula": "2\u002a3\/1"}', {"formula": "2*3/1"}),
        (r'{"a": "\ud834\udd1e \"q\" \\ \b\f\n\r\t"}', {"a": '𝄞 "q" \\ \b\f\n\r\t'}),
        (r'{"a": "\(x\) \d \u12"}', {"a": r"\(x\) \d \u12"}),
        (r"{'a': 'Joe\'s'}", {"a": "Joe's"}),
        ('{"a": "1", "a": "2"}', {"a": "2"}),
        ('{"a": "1",}', {"a": "1"}),
        ('{"a": "1",, "b": [1, , 2,],}', {"a": "1", "b": [1, 2]}),
        ('{"a": "1"\n"b": "2"}', {"a": "1", "b": "2"}),
        ('{"a": [1, 2]\n  "b": 3\n}', {"a": [1, 2], "b": 3}),
        ("{'a': '1', 'b': ['x', \"y\"]}", {"a": "1", "b": ["x", "y"]}),
        ("{'a': 'Joe's Pizza', 'b': 'x'}", {"a": "Joe's Pizza", "b": "x"}),
        ('{"a": "he said "hi" to me", "b": "x"}', {"a": 'he said "hi" to me', "b": "x"}),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
        ("{'a': None, 'b': True, 'c': False}", {"a": None, "b": True, "c": False}),
        (
            '{"a": null, "b": true, "c": -1.5e3, "d": 0}',
            {"a": None, "b": True, "c": -1500.0, "d": 0},
        ),
        ('{"a": [A, 5, 10, K], "b": turn(left) }', {"a": ["A", 5, 10, "K"], "b": "turn(left)"}),
        ('{"a": 007, "b": 1e999, "c": NaN}', {"a": "007", "b": "1e999", "c": "NaN"}),
        ('{"a": ' + "1" * 32 + ', "b": ' + "1" * 33 + "}", {"a": int("1" * 32), "b": "1" * 33}),
        ('{"cards": ["A", "5\nWait. {"formula": "1"}', {"formula": "1"}),
        ('{"formula": "10+ No, again. {"formula": "1"}', {"formula": "1"}),
        ('{"formula": "10+\nNo. {"formula": "1"}', {"formula": "1"}),
        ('{"a": {"b": "1"}}', {"a": {"b": "1"}}),
    ],
)
def test_forms_that_are_read(text, answer):
    assert last_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        '"a": "1"',
        '{"a": "1"',
        '{"a" "1"}',
        "{a: 1}",
        '{"a": "1" "b": "2"}',
        '{"a": [1] "b": 2}',
        '{"a": [[1] [2]]}',
        '{"a"}',
        '{"a": }',
        '{"a": "1"]',
        '{"a": "1}',
        '["a"]',
        "{1, 2}",
        '{"a": "x" y\n}',
        "{'a\": '1'}",
        '<think>{"a": "1"}',
        '<thinking>{"a": "1"}</thinking>',
        '{"a": "1"}</think>',
        '<think>x</think>{"a": "1"}</think>',
        '{"a": [1, {"b": }]}',
        '{\\"a\\": "1"}',
        '{"a": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}",
    ],
)
def test_texts_that_hold_no_answer(text):
    assert last_answer(text) is None


def test_the_deepest_answer():
    nested = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert last_answer(f'{{"a": {nested}}}') == json.loads(f'{{"a": {nested}}}')


def test_the_last_answer_outside_a_thought_counts():
    assert last_answer('{"a": "1"} {"a": "2"} {} {b}') == {"a": "2"}
    assert last_answer('{"a": "1"}<think>{"a": "2"}</think>') == {"a": "1"}
    assert last_answer('{"a": "1"}<think>{"a": "2"}') == {"a": "1"}
    assert last_answer('<think>{"a": "1"}</think>{"a": "2"}<think>') == {"a": "2"}
    assert last_answer('<think> <think> </think> {"a": "1"} </think> {"a": "2"}') == {"a": "2"}
    assert last_answer('{"a": "<think>"} {"a": "2"}') == {"a": "2"}


def test_only_objects_with_the_key_are_answers():
    text = '{"a": "1", "b": "2"} with {"c": "3"}'
    assert last_answer(text) == last_answer(text, "c") == {"c": "3"}
    assert last_answer(text, "a") == {"a": "1", "b": "2"}
    assert last_answer(text, "d") is None


def test_of_a_long_text_the_end_is_read():
    answer = '{"a": "1"}'
    assert last_answer("x" * 10**6 + answer) == {"a": "1"}
    assert last_answer(answer + " " * (MAX_ANSWER - len(answer))) == {"a": "1"}
    assert last_answer(answer + "x" * (MAX_ANSWER - len(answer) + 1)) is None
    for behind in (" \n" * MAX_ANSWER, "<think>" + "x" * MAX_ANSWER + " "):
        assert last_answer(answer + behind) == {"a": "1"}
        assert last_text("1+2" + behind) == "1+2"
    assert last_answer("<think>" + "x" * 10**5 + answer) is None
    assert last_answer("<think>" + "x" * 10**5 + "</think>" + answer) == {"a": "1"}
    for shift in range(20):  # the cut falls into a tag
        filler = "x" * (MAX_ANSWER - len(answer) - shift)
        assert last_answer("<think>" + filler + answer) is None
        assert last_answer("<think>x</think>" + filler + answer) == {"a": "1"}


def test_of_a_tag_that_the_cut_meets_nothing_is_left():
    for shift in range(20):
        filler = "x" * (MAX_ANSWER - shift)
        assert set(last_text("<think></think>" + filler)) == {"x"}


def test_string_fields():
    answer = last_answer('{"a": "1", "b": 2, "c": null}')
    assert [string_field(answer, name) for name in "abcd"] == ["1", None, None, None]
    assert string_field(None, "a") is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 1+2 \n", "1+2"),
        ("<think>hm</think> 1+2", "1+2"),
        ("1+2 <think>hm", "1+2"),
        ("<think>1+2", ""),
        ("1+2</think>", ""),
        ("1</think>2", "2"),
        ("", ""),
        ("1 <think>2</think> ", "1"),
        ("1<think>2</think>3<thinking>4</thinking>", "3"),
        ("<think>" + "x" * 10**5 + "1+2", ""),
        ("1" + " " * MAX_ANSWER + "<think>", "1"),
    ],
)
def test_the_last_text_outside_a_thought(text, answer):
    assert last_text(text) == answer


@settings(deadline=None, max_examples=500)
@given(NOISE)
def test_any_text_is_read(text):
    answer = last_answer(text)
    assert answer is None or isinstance(answer, dict)
    assert isinstance(last_text(text), str)


HOSTILE = [
    "{",
    "[",
    "}",
    '"',
    "'",
    "\\",
    '{"',
    "{'",
    '{"a":',
    '{"a":[',
    '{"a":1,',
    '{"a":"',
    "[1,",
    "<think>",
    "</think>",
    '{"a":"{\'',
    "':'",
    "','",
    '":"',
    '","',
    '{"a":"1"}',
    "[]",
    '\\"',
    '{\\"',
    "{ ",
    " ",
    "\n",
    '"a',
    '{"a"\n',
    "{'a\":",
    '{"a":"b"c',
    '{"a":x ',
    "\\u",
    "\\ud800",
    '{"a":{"b":1,"c":',
    "<",
    "9",
    '"{"',
    "'{'",
    "\"'",
]


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("other", ["", '{"a":"', "'", '"', ",", ":", "}", "{"])
def test_time_is_linear(unit, other):
    text = ((unit + other) * MAX_ANSWER)[:MAX_ANSWER]
    assert_turns(lambda: (last_answer('{"a":' + text), last_text(text)), 15e6)
