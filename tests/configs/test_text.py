"""Texts of error sentences: one line, not too long, never empty; and the nearest name."""

from configs.text import nearest, one_line


def test_an_error_is_one_line():
    assert one_line(ValueError("one\n  two\t three\n")) == "one two three"
    assert one_line(ValueError("x" * 300)) == "x" * 200
    assert one_line(ValueError("x" * 300), None) == "x" * 300
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_the_nearest_name_is_near_enough():
    assert nearest("updats", ["epochs", "updates"]) == "updates"
    assert nearest("updats", iter(["epochs", "updates"])) == "updates"
    assert nearest("zzz", ["epochs", "updates"]) is None
    assert nearest("xe", ["epochs", "updates"], 0.0) == "epochs"
    assert nearest(3, ["3", "4"]) == "3"
    assert nearest("anything", []) is None
