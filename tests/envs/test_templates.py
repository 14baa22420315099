"""Templates are read once, checked for their fields, and run nothing."""

from __future__ import annotations

import pytest

from envs.templates import Fields, read_templates

MESSAGES = {"prompt": Fields(("cards", "rule"), ("cards",)), "end": Fields(())}


def read(tmp_path, name="prompt", text="$cards"):
    path = tmp_path / "mine.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_templates({name: str(path)}, MESSAGES, "Toy.templates")[name]


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Cards: $cards!", "Cards: A 5!"),
        ("${cards}s, $rule\n", "A 5s, J=10"),
        ("$cards\n\n", "A 5\n"),
        ('{"a": {$cards}} {} {0} %s $$5', '{"a": {A 5}} {} {0} %s $5'),
        ("翠華 $cards", "翠華 A 5"),
        ("{cards.__class__} $cards", "{cards.__class__} A 5"),
    ],
)
def test_a_template_is_filled(tmp_path, text, filled):
    template = read(tmp_path, text=text)
    assert template.substitute(cards="A 5", rule="J=10") == filled


def test_values_are_not_filled_again(tmp_path):
    assert read(tmp_path).substitute(cards="$rule ${rule}") == "$rule ${rule}"


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("promt", "$cards", r"Toy\.templates\.promt: there is no such message; .*prompt, end"),
        ("prompt", "$cards $suit", r"there is no field \$suit; there are \$cards, \$rule$"),
        ("prompt", "$rule", r"must have the field \$cards$"),
        ("end", "$cards", r"there is no field \$cards; there are no fields$"),
        ("prompt", "$cards costs $5", r"a \$ must begin a field"),
        ("prompt", "$cards ${rule", r"a \$ must begin a field"),
        ("prompt", b"\xff\xfe$cards", "cannot be read as UTF-8 text"),
    ],
)
def test_a_wrong_template_is_refused(tmp_path, name, text, rule):
    with pytest.raises(ValueError, match=rule) as caught:
        read(tmp_path, name, text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(ValueError, match=rf"Toy\.templates\.end={path}: cannot be read"):
            read_templates({"end": str(path)}, MESSAGES, "Toy.templates")


def test_without_paths_there_are_no_templates():
    assert read_templates({}, MESSAGES, "Toy.templates") == {}
