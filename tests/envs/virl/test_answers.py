"""Reading answers: what is accepted, what is not, and that no text at all does harm."""

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from envs.virl.answers import read_brief, read_full, read_legacy

WANTED = ("turn_direction(north)", "Joe's Cafe is on your left; You observe an intersection")


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"current observation": WANTED[1], "action": WANTED[0]}),
        f'{{"current observation": "{WANTED[1]}",\n"action": "{WANTED[0]}",\n}}',
        f'Sure!\n```json\n{{"current observation": "{WANTED[1]}", "action": "{WANTED[0]}"}}\n```',
        f"{{'current observation': '{WANTED[1]}', 'action': '{WANTED[0]}'}}",
        f'{{"action": {WANTED[0]}, "current observation": "{WANTED[1]}"}}',
    ],
)
def test_tolerant_reader_accepts_near_json(text) -> None:
    answer = read_full(text)
    assert (answer.action, answer.observation) == WANTED


@pytest.mark.parametrize("text", ["", "forward()", '{"act": "forward()"}', '"action"', "{}"])
def test_tolerant_reader_finds_nothing_where_nothing_is(text) -> None:
    assert read_full(text).action is None


def test_released_reader_takes_json_or_one_pattern_else_the_word_none() -> None:
    assert read_legacy('{"action": "stop()"}').action == "stop()"
    assert read_legacy('{\n"action": "stop()",\n}').action == "stop()"  # trailing comma: pattern
    assert read_legacy("{'action': 'stop()'}").action == "None"
    assert read_legacy('{"action":"stop()",}').action == "None"  # pattern wants the blank
    assert read_full("{'action': 'stop()'}").action == "stop()"


def test_brief_reader() -> None:
    assert read_brief(" stop() \n", vision=False).action == "stop()"
    answer = read_brief("Joe's Cafe; stop()", vision=True)
    assert (answer.observation, answer.action) == ("Joe's Cafe", "stop()")
    assert read_brief("stop()", vision=True).observation is None
    assert read_brief("", vision=True).action is None


@given(st.text())
@example("[" * 20_000)
@example('{"action": "' * 5_000)
@example('"action": \'' + "x'," * 9_000)
@example('"action": "' + '\\"' * 9_000)
@example("{" * 10_000 + '"action":' + " " * 10_000)
@example("9" * 20_000)
def test_any_text_is_read_in_bounded_time(text) -> None:
    begin = time.perf_counter()
    for answer in (read_full(text), read_legacy(text), read_brief(text, True)):
        assert answer.action is None or isinstance(answer.action, str)
    assert time.perf_counter() - begin < 1.0
