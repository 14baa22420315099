"""Reading answers: which of several counts, what near-JSON is accepted, that no text does harm."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from envs.virl.answers import Answer, read_brief, read_full, read_legacy
from tests.support.effort import assert_turns

ACTION, SEEN = "turn_direction(north)", "Joe's Cafe is on your left; You observe an intersection"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"current observation": SEEN, "action": ACTION}),
        f'{{"current observation": "{SEEN}",\n"action": "{ACTION}",\n}}',
        f'Sure!\n```json\n{{"current observation": "{SEEN}", "action": "{ACTION}"}}\n```',
        f"{{'current observation': '{SEEN}', 'action': '{ACTION}'}}",
        f'{{"action": {ACTION}, "current observation": "{SEEN}"}}',
    ],
)
def test_tolerant_reader_accepts_near_json(text) -> None:
    assert read_full(text) == Answer(ACTION, SEEN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "forward()",
        '{"act": "forward()"}',
        '"action"',
        "{}",
        '{"action": ["forward()"]}',
        '<think>{"action": "forward()"}</think>',
        '<think>{"action": "forward()"}',
    ],
)
def test_tolerant_reader_reads_nothing_where_nothing_is(text) -> None:
    assert read_full(text) == Answer(None)


def test_the_last_answer_outside_a_thought_counts() -> None:
    first, last = (json.dumps({"action": action}) for action in ("forward()", "stop()"))
    assert read_full(f"{first} No: {last}").action == "stop()"
    assert read_full(f"<think>{last}</think>{first}").action == "forward()"
    assert read_full(f"<think>{first} {last}").action is None
    assert read_full(f'{last} {{"note": "forward()"}}').action == "stop()"
    assert read_full("x" * 100_000 + last).action == "stop()"
    assert read_brief("<think>forward()</think>stop()", vision=False).action == "stop()"
    assert read_brief("<think>none; forward()", vision=True) == Answer(None)


def test_escapes_are_undone() -> None:
    seen = 'Café “Ann\'s” \\ 翠華餐廳 "B" – 5° is on your left'
    for text in (
        json.dumps({"current observation": seen, "action": "stop()"}),
        json.dumps({"current observation": seen, "action": "stop()"}, ensure_ascii=False),
        f'{{"current observation": {json.dumps(seen)}, "action": "stop()",}}',
    ):
        assert read_full(text).observation == seen


def test_released_reader_takes_json_or_one_pattern_else_the_word_none() -> None:
    assert read_legacy('{"action": "stop()"}').action == "stop()"
    assert read_legacy('{\n"action": "stop()",\n}').action == "stop()"  # trailing comma: pattern
    assert read_legacy("{'action': 'stop()'}").action == "None"
    assert read_legacy('{"action":"stop()",}').action == "None"  # pattern wants the blank
    assert read_full("{'action': 'stop()'}").action == "stop()"
    assert read_legacy('{"action": 5}') == Answer("None", "None")
    # The first of several counts, inside a thought as well, however long the text.
    both = '"action": "forward()" "action": "stop()"'
    assert read_legacy("x" * 100_000 + both).action == "forward()"
    assert read_legacy('<think>"action": "stop()"</think>').action == "stop()"
    # Asked for a word of a list, Python says whether the word is a member.
    listed = '{"action": "stop()", "current observation": ["intersection"]}'
    assert read_legacy(listed).observation == "intersection"
    assert read_legacy(listed.replace('"inter', '"an inter')).observation == "None"


def test_brief_reader() -> None:
    assert read_brief(" stop() \n", vision=False) == Answer("stop()")
    assert read_brief("a; stop()", vision=False) == Answer("a; stop()")
    assert read_brief("Joe's Cafe left; stop()", vision=True) == Answer("stop()", "Joe's Cafe left")
    assert read_brief("A; B left ; stop() ", vision=True) == Answer("stop()", "A; B left")
    assert read_brief("stop()", vision=True) == Answer("stop()")
    assert read_brief("; stop()", vision=True) == Answer("stop()")
    assert read_brief("none;", vision=True) == Answer(None, "none")
    assert read_brief("", vision=True) == Answer(None)


@given(st.text())
@example("[" * 20_000)
@example('{"action": "' * 5_000)
@example('"action": \'' + "x'," * 9_000)
@example('"action": "' + '\\"' * 9_000)
@example("{" * 10_000 + '"action":' + " " * 10_000)
@example("9" * 20_000)
@example('"action": "' * 100_000)
def test_any_text_is_read_in_bounded_time(text) -> None:
    def read():
        for answer in (read_full(text), read_legacy(text), read_brief(text, True)):
            assert answer.action is None or isinstance(answer.action, str)

    assert_turns(read, 15e6)


@pytest.mark.parametrize("said", ["turn_direction（north）", " turn_direction( north ) "])
def test_blanks_and_full_width_forms_do_not_make_another_action(said) -> None:
    assert read_brief(said, vision=False).action == "turn_direction(north)"
    assert read_brief(f"none; {said}", vision=True).action == "turn_direction(north)"
    assert read_full(json.dumps({"action": said})).action == "turn_direction(north)"
    assert read_full(json.dumps({"action": " "})).action is None
