"""Places the labels of a map where they are free.

Input: for each label the boxes that it may have, the dearest first, and the boxes that are taken.
Output: a box for each label.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

LABEL_ON_MARK = 0.2
"""What a covered mark counts, of a covered label's area."""


def around(at: tuple[float, float], size: tuple[float, float], gap: float) -> list[Box]:
    """The boxes of a label of this size around a mark: right of it first, then ever farther off."""
    width, height = size
    boxes = []
    for ring in range(4):
        near, far = gap + ring * height, gap + (ring + 1) * height
        for x in (at[0] + gap, at[0] - gap - width, at[0] - width / 2):
            for y in (at[1] - height / 2, at[1] + near, at[1] - far):
                beside = x != at[0] - width / 2 or y != at[1] - height / 2
                if beside and (ring == 0 or y != at[1] - height / 2):
                    boxes.append((x, y, x + width, y + height))
    return boxes


def place(labels: Sequence[Sequence[Box]], marks: Iterable[Box], sheet: Box) -> list[Box]:
    """A box for each label, from its choices: the first that covers least.

    What is beyond the sheet's edge or on a label counts by its area, on a mark by less of it.
    """
    marks, placed = list(marks), list[Box]()
    for choices in labels:
        costs = [_cost(box, placed, marks, sheet) for box in choices]
        placed.append(choices[costs.index(min(costs))])
    return placed


def _cost(box: Box, labels: list[Box], marks: list[Box], sheet: Box) -> float:
    outside = _area(box) - covered(box, sheet)
    on_labels = sum(covered(box, other) for other in labels)
    return outside + on_labels + LABEL_ON_MARK * sum(covered(box, other) for other in marks)


def covered(one: Box, other: Box) -> float:
    """The area that two boxes have in common."""
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[2], other[2]), min(one[3], other[3])
    return _area((left, top, right, bottom)) if left < right and top < bottom else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
