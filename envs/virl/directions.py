"""A route's directions, its observations and its history, as sentences.

Input: a Route and Points of the rail. Output: text, in the study's wording or short.
"""

from __future__ import annotations

from envs.virl.rail import Point
from envs.virl.route import NO_LANDMARK, Leg, Route, name_and_side

INTERSECTION = "You observe an intersection"
NO_LANDMARKS = "No landmarks nearby"
FOUR_VIEWS = "You observe an image of 4 views"


def directions(route: Route, turns: list[str], tidy: bool = True) -> list[str]:
    """The sentences of the directions, two a leg.

    turns: each leg's relative word.
    tidy: `First,` begins every route; otherwise not one of a single leg, as released.
    """
    sentences = []
    last = len(route.legs) - 1
    for number, (leg, turn) in enumerate(zip(route.legs, turns, strict=True)):
        first = number == 0 and (tidy or number < last)
        sentences.append(f"{'First, turn' if first else 'Turn'} {turn} to face {leg.compass}.")
        goal = "destination" if number == last else "next intersection"
        where = "" if leg.landmark is None else f" where {leg.expression}"
        sentences.append(f"Move forward until you reach {goal}{where}.")
    return sentences


def observation(point: Point, tidy: bool = True) -> str:
    """The true observation at a point, as text.

    tidy: one phrase for no landmark; otherwise key points use the data set's singular one.
    """
    nothing = NO_LANDMARK if point.intersection and not tidy else NO_LANDMARKS
    return f"{point.expression or nothing}; {INTERSECTION if point.intersection else ''}"


def picture_line(point: Point) -> str:
    """The current observation where the landmark is to be found in the picture."""
    return f"{FOUR_VIEWS}; {INTERSECTION if point.intersection else ''}"


def history(past: list[tuple[str, str]], now: str) -> str:
    """Lines O_k and A_k of the past observations and actions, and the open current pair."""
    lines = []
    for number, (seen, action) in enumerate(past, start=1):
        lines += [f"O_{number}: {seen}", f"A_{number}: {action}"]
    number = len(past) + 1
    return "\n".join([*lines, f"O_{number}: {now}", f"A_{number}:"])


def short_expression(expression: str) -> str:
    """A landmark's expression in few words, such as `Golden Bakery left`."""
    return " ".join(name_and_side(expression)).strip()


def short_directions(route: Route, turns: list[str]) -> str:
    """All legs, numbered, in a few words each: turn, compass word, what ends the leg."""
    last = len(route.legs) - 1

    def goal(number: int, leg: Leg) -> str:
        name = short_expression(leg.expression) if leg.landmark is not None else ""
        kind = "end" if number == last else "corner"
        return f"{kind} {name}".strip()

    parts = [
        f"{number + 1}: {turn} {leg.compass}, {goal(number, leg)}."
        for number, (leg, turn) in enumerate(zip(route.legs, turns, strict=True))
    ]
    return " ".join(parts)


def short_history(past: list[tuple[str, str]]) -> str:
    """The last turn with its number; steps forward tell nothing, as points drop at random."""
    turns = [action[action.find("(") + 1 : -1] for _, action in past if action != "forward()"]
    return f"{len(turns)} {turns[-1]}" if turns else "nothing"
