"""Draws a map of an episode: streets, the rail with its actions, landmarks with their names.

Input: a world, a route and its rail. Output: an RGB Pillow image, north up, for people; no episode
uses it.
"""

from __future__ import annotations

import math
from itertools import pairwise

from PIL import Image, ImageDraw

from envs.virl.city.style import Colour
from envs.virl.drawing.brush import font
from envs.virl.geometry import Place, Projection
from envs.virl.labels import Box, around, place
from envs.virl.rail import Point
from envs.virl.route import Route
from envs.virl.world import ProceduralWorld, World

LAND: Colour = (236, 232, 222)
BLOCK: Colour = (222, 216, 204)
STREET: Colour = (255, 255, 255)
RAIL: Colour = (38, 110, 196)
TURN: Colour = (232, 138, 32)
STOP: Colour = (200, 36, 44)
START: Colour = (44, 150, 76)
PIN: Colour = (126, 52, 140)
INK: Colour = (48, 48, 52)
MARGIN_M = 45.0


class Sheet:
    """A square drawing in local metres around the route, twice as large as it will be.

    boxes: where the labels stand, once `draw_labels` has placed them.
    """

    def __init__(self, route: Route, rail: list[Point], size: int) -> None:
        self.side = size * 2
        self.unit = self.side / 640  # a fine line
        self.projection = Projection(route.start)
        shown = [p.place for p in rail] + [mark.place for mark in route.landmarks]
        spots = [self.projection.metres(place) for place in shown]
        east, north = [s[0] for s in spots], [s[1] for s in spots]
        self.span = max(max(east) - min(east), max(north) - min(north)) + 2 * MARGIN_M
        self.middle = ((max(east) + min(east)) / 2, (max(north) + min(north)) / 2)
        self.scale = self.side / self.span
        self.image = Image.new("RGB", (self.side, self.side), LAND)
        self.draw = ImageDraw.Draw(self.image)
        self.font = font(round(13 * self.unit))
        self.rim = round(2 * self.unit)
        self.marks: list[Box] = []
        self.labels: list[tuple[str, Colour, list[Box]]] = []
        self.boxes: list[Box] = []

    def pixel(self, place: Place) -> tuple[float, float]:
        """A place on the sheet."""
        east, north = self.projection.metres(place)
        return (
            self.side / 2 + (east - self.middle[0]) * self.scale,
            self.side / 2 - (north - self.middle[1]) * self.scale,
        )

    def dot(self, at: tuple[float, float], radius: float, fill: Colour) -> None:
        """A filled circle with a white rim."""
        for r, colour in ((radius + 1.5, (255, 255, 255)), (radius, fill)):
            r *= self.unit
            box = (at[0] - r, at[1] - r, at[0] + r, at[1] + r)
            self.draw.ellipse(box, fill=colour)
        self.marks.append(box)

    def line(self, through: list[tuple[float, float]], width: float, fill: Colour) -> None:
        """A line that labels avoid, as the boxes of its pieces."""
        wide = width * self.unit
        self.draw.line(through, fill=fill, width=round(wide), joint="curve")
        for (x0, y0), (x1, y1) in pairwise(through):
            pieces = max(1, round(math.hypot(x1 - x0, y1 - y0) / wide))
            for piece in range(pieces):
                x, y = x0 + (x1 - x0) * piece / pieces, y0 + (y1 - y0) * piece / pieces
                self.marks.append((x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2))

    def label(self, at: tuple[float, float], text: str, fill: Colour, anchor: str = "lm") -> None:
        """A label at a fixed place."""
        self.labels.append((text, fill, [self._box(at, text, anchor)]))

    def label_around(self, at: tuple[float, float], gap: float, text: str, fill: Colour) -> None:
        """A label that may stand anywhere around a mark."""
        left, top, right, bottom = self._box((0, 0), text, "la")
        choices = around(at, (right - left, bottom - top), gap * self.unit)
        self.labels.append((text, fill, choices))

    def draw_labels(self) -> None:
        """Place all labels where they are free, and draw them with a light rim."""
        whole = (0.0, 0.0, float(self.side), float(self.side))
        self.boxes = place([choices for *_, choices in self.labels], self.marks, whole)
        for (text, fill, _), box in zip(self.labels, self.boxes, strict=True):
            left, top, *_ = self._box((0, 0), text, "la")
            self.draw.text(
                (box[0] - left, box[1] - top),
                text,
                fill=fill,
                font=self.font,
                stroke_width=self.rim,
                stroke_fill=(255, 255, 255),
            )

    def _box(self, at: tuple[float, float], text: str, anchor: str) -> Box:
        return self.draw.textbbox(at, text, self.font, anchor, stroke_width=self.rim)


def draw_map(world: World, route: Route, rail: list[Point], size: int = 640) -> Image.Image:
    """The map of one episode, `size` pixels a side."""
    sheet = draw_sheet(world, route, rail, size)
    return sheet.image.resize((size, size), Image.Resampling.LANCZOS)


def draw_sheet(world: World, route: Route, rail: list[Point], size: int) -> Sheet:
    """The map as it is drawn, twice as large."""
    sheet = Sheet(route, rail, size)
    if isinstance(world, ProceduralWorld):
        _draw_streets(sheet, world, route)
    sheet.line([sheet.pixel(point.place) for point in rail], 4.0, RAIL)
    for point in rail:
        if point.kind == "forward":
            sheet.dot(sheet.pixel(point.place), 3.5, RAIL)
    _draw_frame(sheet, route)
    for number, point in enumerate(rail):
        if point.kind != "forward":
            _draw_key_point(sheet, number, point)
    for landmark in route.landmarks:
        _draw_landmark(sheet, sheet.pixel(landmark.place), landmark.name)
    sheet.draw_labels()
    return sheet


def _draw_streets(sheet: Sheet, world: ProceduralWorld, route: Route) -> None:
    city = world.city(route.city)
    lines = []
    for street in city.plan.streets:
        ends = [sheet.pixel(city.node_places[n]) for n in (street.a, street.b)]
        lines.append((ends, street.half_width))
    for metres, fill in ((0.0, BLOCK), (-2.4, STREET)):
        for ends, half in lines:
            width = max(round(2 * (half + metres) * sheet.scale), 1)
            sheet.draw.line(ends, fill=fill, width=width)
            for x, y in ends:
                r = width / 2
                sheet.draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _draw_key_point(sheet: Sheet, number: int, point: Point) -> None:
    """A turn or stop, numbered by its place on the rail."""
    at = sheet.pixel(point.place)
    colour = {"stop": STOP, "turn": START if number == 0 else TURN}[point.kind]
    sheet.dot(at, 8.0, colour)
    sheet.draw.text(
        at, str(number + 1), fill=(255, 255, 255), font=font(round(10 * sheet.unit)), anchor="mm"
    )
    if point.kind == "turn":
        text = f"{point.relative}, {point.compass}"
        sheet.label_around(at, 10.0, text, INK)


def _draw_landmark(sheet: Sheet, at: tuple[float, float], name: str) -> None:
    """A pin whose tip stands at the landmark."""
    u = sheet.unit
    x, y = at
    sheet.draw.polygon([(x, y), (x - 5 * u, y - 10 * u), (x + 5 * u, y - 10 * u)], fill=PIN)
    sheet.dot((x, y - 12 * u), 6.0, PIN)
    sheet.label_around((x, y - 12 * u), 8.0, name, PIN)


def _draw_frame(sheet: Sheet, route: Route) -> None:
    """Title, scale bar, north arrow."""
    u, side = sheet.unit, sheet.side
    sheet.label((12 * u, 16 * u), f"{route.name}: to {route.destination.name}", INK)
    metres = 10 ** math.floor(math.log10(sheet.span / 3))
    metres *= next(step for step in (5, 2, 1) if step * metres <= sheet.span / 3)
    left, below = 14 * u, side - 14 * u
    sheet.draw.line(
        [(left, below), (left + metres * sheet.scale, below)], fill=INK, width=round(3 * u)
    )
    sheet.label((left, below - 12 * u), f"{metres} m", INK)
    x, y = side - 22 * u, 24 * u
    sheet.draw.polygon(
        [(x, y - 14 * u), (x - 7 * u, y + 10 * u), (x, y + 5 * u), (x + 7 * u, y + 10 * u)],
        fill=INK,
    )
    sheet.marks.append((x - 7 * u, y - 14 * u, x + 7 * u, y + 10 * u))
    sheet.label((x, y + 20 * u), "N", INK, "mm")
