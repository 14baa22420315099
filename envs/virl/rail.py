"""The rail: the points that an episode walks, each with its one right action.

Input: a Route, the settings, the nearest-panorama function, the episode's generator.
Output: a list of Points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from envs.virl.geometry import Place, between, haversine, relative_word, relative_word_legacy
from envs.virl.route import Landmark, Route, name_and_side
from envs.virl.settings import Rules, Settings

SHORT_LEG_M = 5.0  # shorter legs get no in-between points
CLEARANCE_M = 8.0  # in-between points keep this from both ends

Nearest = Callable[[Place], Place | None]


@dataclass(frozen=True)
class Point:
    """One position of an episode.

    place: latitude, longitude; heading: degrees on arrival.
    kind: turn | forward | stop.
    compass, relative: the turn in both action spaces; empty when not a turn.
    expression: what is to be seen, such as "Golden Bakery is on your left"; empty without.
    landmark: the one that the expression names, or None.
    intersection: whether this is a key point between two legs.
    instruction: number of the sentence of the directions in force, from 0.
    """

    place: Place
    heading: int
    kind: str
    compass: str = ""
    relative: str = ""
    expression: str = ""
    landmark: Landmark | None = None
    intersection: bool = False
    instruction: int = 0

    @property
    def side(self) -> str:
        """Where the landmark is, one of geometry.SIDES; empty without a landmark."""
        return name_and_side(self.expression)[1] if self.landmark else ""

    def action(self, action_space: str) -> str:
        """The right answer's action in `absolute` or `relative` terms."""
        if self.kind != "turn":
            return f"{self.kind}()"
        return f"turn_direction({self.compass if action_space == 'absolute' else self.relative})"


def relative_words(route: Route, init_heading: int, rules: Rules) -> list[str]:
    """The turn word before each leg."""
    word = relative_word if rules.wrap else relative_word_legacy
    headings = [init_heading, *(leg.heading for leg in route.legs)]
    return [word(before, after) for before, after in pairwise(headings)]


def lay_rail(
    route: Route,
    init_heading: int,
    settings: Settings,
    rules: Rules,
    nearest: Nearest,
    rng: np.random.Generator,
) -> list[Point]:
    """Lay the rail of one episode.

    Raises:
        LookupError: a key point has no panorama within `mapping_radius`; args[0] is its number,
            0 for the start.
    """
    turns = relative_words(route, init_heading, rules)
    here = _relocate(route.start, nearest, 0)
    legs = route.legs
    rail = [Point(here, init_heading, "turn", legs[0].compass, turns[0])]
    instruction = 1
    for number, leg in enumerate(legs):
        end = _relocate(leg.end, nearest, number + 1)
        last = number == len(legs) - 1
        long = haversine(here, leg.end) > SHORT_LEG_M
        if long:
            for place in _in_between(here, end, settings, rules, nearest, rng):
                rail.append(Point(place, leg.heading, "forward", instruction=instruction))
        # The released code forgets the sentence of a short leg and lags behind from there on.
        instruction += 1 if long or rules.tidy_rail else 0
        expression = leg.expression if leg.landmark is not None else ""
        rail.append(
            Point(
                end,
                leg.heading,
                kind="stop" if last else "turn",
                compass="" if last else legs[number + 1].compass,
                relative="" if last else turns[number + 1],
                expression=expression,
                landmark=leg.landmark,
                intersection=not last,
                instruction=instruction - 1 if last else instruction,
            )
        )
        instruction += 1
        here = end
    return rail


def _relocate(place: Place, nearest: Nearest, number: int) -> Place:
    panorama = nearest(place)
    if panorama is None:
        raise LookupError(number)
    return panorama


def _in_between(
    begin: Place,
    end: Place,
    settings: Settings,
    rules: Rules,
    nearest: Nearest,
    rng: np.random.Generator,
) -> list[Place]:
    """Panoramas between two key points, some dropped, all clear of both ends."""
    count = settings.straight_line_length
    kept: list[Place] = []
    for i, drop in enumerate(rng.random(count) < settings.drop_rate, start=1):
        if drop:
            continue
        place = nearest(between(begin, end, i / count))
        if place is None or min(haversine(begin, place), haversine(end, place)) <= CLEARANCE_M:
            continue
        if rules.tidy_rail and kept and kept[-1] == place:
            continue
        kept.append(place)
    return kept
