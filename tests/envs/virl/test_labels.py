"""Labels stand where they cover nothing, else where they cover least."""

from itertools import combinations

import pytest

from envs.virl.labels import around, covered, place

SHEET = (0.0, 0.0, 100.0, 100.0)
RIGHT = (10.0, 0.0, 20.0, 10.0)
LEFT = (0.0, 0.0, 10.0, 10.0)


def test_the_area_that_boxes_share() -> None:
    assert covered(LEFT, RIGHT) == covered(RIGHT, LEFT) == 0.0
    assert covered(LEFT, (8, 7, 30, 30)) == 6.0
    assert covered(LEFT, (2, 20, 8, 30)) == covered(LEFT, (20, 2, 30, 8)) == 0.0


def test_the_first_free_choice_is_taken() -> None:
    assert place([[RIGHT, LEFT]], [], SHEET) == [RIGHT]
    assert place([[RIGHT], [RIGHT, LEFT]], [], SHEET) == [RIGHT, LEFT]
    assert place([[RIGHT, LEFT]], [(19, 0, 30, 30)], SHEET) == [LEFT]
    assert place([[(95, 0, 105, 10), LEFT]], [], SHEET) == [LEFT]


def test_a_label_covers_a_mark_rather_than_a_label_or_the_edge() -> None:
    assert place([[RIGHT], [RIGHT, LEFT]], [LEFT], SHEET) == [RIGHT, LEFT]
    assert place([[(-10, 0, 0, 10), LEFT]], [LEFT], SHEET) == [LEFT]


def test_choices_stand_around_the_mark_and_clear_of_it() -> None:
    boxes = around((50.0, 50.0), (20.0, 8.0), 5.0)
    assert boxes[0] == (55.0, 46.0, 75.0, 54.0)
    assert len(set(boxes)) == len(boxes) == 8 + 3 * 6
    mark = (45.1, 45.1, 54.9, 54.9)
    assert not any(covered(box, mark) for box in boxes)
    assert all(box[2] - box[0] == 20 and box[3] - box[1] == 8 for box in boxes)
    assert sum(not covered(a, b) for a, b in combinations(boxes, 2)) > 100
    assert max(box[3] for box in boxes) == pytest.approx(50 + 5 + 4 * 8)
