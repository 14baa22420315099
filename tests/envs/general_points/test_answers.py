"""Answers in every shape that models give them, and what the released parser made of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.general_points.answers import card_name, card_names, read_brief, read_json, read_legacy
from tests.support.effort import assert_turns

CARDS = ["A", "5", "10", "K"]
GOOD = [
    '{"cards": ["A", "5", "10", "K"], "number": [1, 5, 10, 10], "formula": "10+10+5-1=24"}',
    '{"cards": ["A", "5", "10", "K"], "number": [1, 5, 10, 10], "formula": "10+10+5-1=24",}',
    "{'cards': ['A', '5', '10', 'K'], 'number': [1, 5, 10, 10,], 'formula': '10+10+5-1=24',}",
    '{\n  "cards": [A, 5, 10, K],\n  "formula": "10+10+5-1=24",\n}',
    '{"formula":"10+10+5-1=24","cards":["a","5","10","k"]}',
    'I think {hard}. ```json\n{"cards": ["A", 5, 10, "K"], "formula": "10+10+5-1=24"}\n``` Ok',
    '{"cards": ["2"], "formula": "1"} no: {"cards": [\'A\', \'5\', \'10\', \'K\'], '
    '"thought": "10+10=20", "formula": "10+10+5-1=24"}',
]


@pytest.mark.parametrize("text", GOOD)
def test_lenient_parser_reads(text):
    assert read_json(text) == (CARDS, "10+10+5-1=24")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10+10+5-1",
        "{}",
        '{"formula": 24}',
        '{"formula": "1',
        '"formula": "10+10+5-1=24"',
        "[" * 50,
    ],
)
def test_lenient_parser_finds_no_formula(text):
    assert read_json(text).formula is None


def test_the_last_formula_outside_a_thought_is_read():
    text = '<think>{"formula": "1"}</think>{"cards": ["A"], "formula": "2"} {"formula": "3"}'
    assert read_json(text) == (None, "3")
    assert read_json(text + '<think>{"formula": "4"}').formula == "3"
    assert read_json('{"formula": "1"} with {"cards": ["A"]}').formula == "1"
    assert read_json('{"formula": "1", "formula": "2"}').formula == "2"
    assert read_json('{"x": "{10 \u002a 2}", "formula": "10\\u002a2\\/1"}').formula == "10*2/1"
    assert read_json("x" * 10**6 + '{"formula": "1"}').formula == "1"


SAME_CARD = {
    "2": "2|2♠|♠2|2 ♠|2♠\ufe0f|2♡|2 of spades|2 of Spade|Spades 2|two|Two of Clubs|2s|2H|'2'|2♠.",
    "10": "10|10♦|♦10|ten|T|Th|10d|Ten of Diamonds|10 of diamonds",
    "A": "A|a|Ace|ACE|A♥|♥A|ace of hearts|As|Ah",
    "J": "J|j|jack|Jack of clubs|J♣|Jc",
    "Q": "Q|queen|Queen of Hearts|Q♤|qd",
    "K": "K|King|king of diamonds|K♢|♧K|KS",
    "14": "14|14♠|14h",
    "3": "3|three|3♣",
    "4": "four|4c",
    "5": "five",
    "6": "six|♡6",
    "7": "seven|7d",
    "8": "Eight of Hearts",
    "9": "NINE",
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name in SAME_CARD for text in SAME_CARD[name].split("|")]
)
def test_a_card_is_read_as_it_is_seen(name, text):
    assert card_name(text) == name
    assert card_names(f"{text}, 5") == [name, "5"]
    assert read_json(json.dumps({"cards": [text, "K"], "formula": "1"})).cards == [name, "K"]
    assert read_brief(f"{text} 7: 1", cards=True, thought=False).cards == [name, "7"]


@pytest.mark.parametrize(
    ("text", "card"),
    [
        ("3♠", "2"),
        ("J", "Q"),
        ("1", "A"),
        ("11", "J"),
        ("12♥", "Q"),
        ("13", "K"),
        ("kings", "K"),
        ("♠", "2"),
        ("ace high", "A"),
        ("2 3", "2"),
        ("hearts", "A"),
        ("1♠", "A"),
        ("0", "10"),
        ("20", "2"),
    ],
)
def test_another_card_is_another(text, card):
    assert card_name(text) != card


def test_cards_in_one_text_and_of_other_kinds():
    names = ["A", "5", "10", "K"]
    for cards in (
        "A, 5, 10, K",
        "[A, 5, 10, K]",
        "['A', '5', '10', 'K']",
        "A♠5♥10♦K♣",
        "ace 5 ten king",
    ):
        assert read_json(json.dumps({"cards": cards, "formula": "1"})).cards == names
    assert read_json('{"cards": [1, 5.0, null, []], "formula": "1"}').cards == [
        "1",
        "5.0",
        "NONE",
        "[]",
    ]
    assert read_json('{"cards": {"a": 1}, "formula": "1"}').cards == []
    assert read_brief("A♠ 5 of hearts, 10♦ K: 1", cards=True, thought=False).cards == names


def test_missing_cards_are_told_from_none():
    assert read_json('{"formula": "1"}').cards is None
    assert read_json('{"cards": [], "formula": "1"}').cards == []


def test_brief_answers():
    assert read_brief(" 10+10+5-1 \n", cards=False, thought=False) == (None, "10+10+5-1")
    assert read_brief("A 5 10 K: 10+10+5-1", cards=True, thought=False) == (CARDS, "10+10+5-1")
    assert read_brief("10+10+5-1", cards=True, thought=False) == (None, "10+10+5-1")
    steps = "A 5 10 K: 10+10=20, 20+5=25, 25-1=24; 10+10+5-1"
    assert read_brief(steps, cards=True, thought=True) == (CARDS, "10+10+5-1")
    assert read_brief("1+1; 2+2; 3+3", cards=False, thought=True).formula == "3+3"
    thinking = "<think>A 2: 3</think>A 5 10 K: 10+10+5-1"
    assert read_brief(thinking, cards=True, thought=False) == (CARDS, "10+10+5-1")
    assert read_brief("1; 10+10+5-1", cards=False, thought=False).formula == "1; 10+10+5-1"


def legacy(cards: str, tail: str = ",") -> list[str] | None:
    return read_legacy(f'{{\n  "cards": {cards},\n  "formula": "10+10+5-1=24"{tail}\n}}', 4).cards


def test_released_parser_reads_its_own_format():
    text = "{\n  \"cards\": ['A', '5', '10', 'K'],\n  \"formula\": \"10+10+5-1=24\",\n}"
    assert read_legacy(text, 4) == (CARDS, "10+10+5-1")
    assert legacy("[A, 5, 10, K]") == CARDS


def test_released_parser_loses_the_cards_of_strict_json():
    assert legacy('["A", "5", "10", "K"]', tail="") == []
    assert read_json('{"cards": ["A", "5", "10", "K"], "formula": "1"}').cards == CARDS


def test_released_parser_loses_cards_that_are_all_numbers_without_quotes():
    assert legacy("[3, 8, 8, 3]") == []
    assert read_json('{"cards": [3, 8, 8, 3], "formula": "1",}').cards == ["3", "8", "8", "3"]


@pytest.mark.parametrize("cards", ["[A, 5, 10]", "[A, 5, 10, K, 2]", "[A]"])
def test_released_parser_drops_another_number_of_cards(cards):
    assert legacy(cards) == []
    text = f'{{"cards": {cards},\n "formula": "1",}}'
    assert read_legacy(text, cards.count(",") + 1).cards == cards.strip("[]").split(", ")


def test_released_parser_keeps_double_quotes_in_names():
    assert legacy('["A", "5", "10", "K"]') == ['"A"', '"5"', '"10"', '"K"']


def test_released_parser_wants_one_space_and_double_quotes_before_the_formula():
    for text in ('{"formula":"1+2",}', "{'formula': '1+2',}", "1+2", ""):
        assert read_legacy(text, 4).formula == "None"
    assert read_json('{"formula":"1+2",}').formula == "1+2"


def test_released_parser_reads_a_formula_outside_any_object():
    assert read_legacy('so "formula": "1+2=3"', 4).formula == "1+2"


@settings(deadline=None)
@given(st.text() | st.text(alphabet="{}[]\"':, formulacards123\\", max_size=200))
def test_any_text_is_read(text):
    for answer in (
        read_json(text),
        read_legacy(text, 4),
        read_brief(text, cards=True, thought=True),
    ):
        assert answer.cards is None or all(isinstance(card, str) for card in answer.cards)
        assert answer.formula is None or isinstance(answer.formula, str)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_value_as_a_field_is_read(value):
    text = json.dumps({"cards": value, "formula": value})
    read_json(text)
    read_legacy(text, 4)


HOSTILE = [
    "{" * 32_000,
    '"cards": [' * 3_200,
    '"formula": "' * 2_700,
    '{"formula" ' * 3_000,
    "[" * 32_000,
    '{"a":' * 6_000,
    "1" * 32_000,
    ";" * 32_000,
    '{"formula":' + " " * 32_000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_take_no_time(text):
    def read():
        read_json(text), read_legacy(text, 4), read_brief(text, cards=True, thought=True)

    assert_turns(read, 6e6)


@pytest.mark.parametrize(
    ("text", "name"), [("６", "6"), ("１０", "10"), ("Ａ", "A"), ("10 of ♠", "10")]
)
def test_full_width_cards_and_signs_behind_of(text, name):
    assert card_name(text) == name
    assert read_brief(f"{text} 5： 1+2", cards=True, thought=False).cards == [name, "5"]
