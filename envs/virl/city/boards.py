"""How the boards of each city look: typeface, letter case, colours, shape, frame, ornament.

Names stay in Latin letters, so that board and text say the same; ornaments have the look of a
city's own script or sign painters.
"""

from __future__ import annotations

from dataclasses import dataclass

from envs.virl.city.style import Colour

CREAM: Colour = (255, 250, 236)
WHITE: Colour = (252, 250, 244)
BLACK: Colour = (26, 26, 32)
GOLD: Colour = (248, 208, 96)


@dataclass(frozen=True)
class BoardStyle:
    """The boards of one city.

    face: typeface (drawing/brush.py knows where each lies); upper: all in capitals.
    weight: share of the letters' height by which strokes are thickened.
    paints: pairs of ground and ink, of strong contrast.
    shape, frame, ornament: kinds that drawing/signs.py and drawing/ornaments.py draw.
    """

    face: str
    upper: bool
    weight: float
    paints: tuple[tuple[Colour, Colour], ...]
    shape: str
    frame: str
    ornament: str


BOARDS = {
    "New York": BoardStyle(
        face="aileron",
        upper=True,
        weight=0.035,
        paints=(
            ((176, 32, 40), CREAM),
            ((24, 72, 150), CREAM),
            ((18, 104, 72), CREAM),
            ((250, 206, 60), BLACK),
            (WHITE, (160, 24, 36)),
            (BLACK, GOLD),
            (WHITE, (20, 60, 130)),
            ((110, 40, 120), CREAM),
        ),
        shape="plain",
        frame="double",
        ornament="none",
    ),
    "Lagos": BoardStyle(
        face="DejaVuSans-BoldOblique",
        upper=True,
        weight=0.0,
        paints=(
            ((250, 214, 40), (176, 24, 30)),
            ((20, 122, 70), (255, 244, 120)),
            ((255, 244, 214), (16, 96, 52)),
            ((160, 34, 20), (255, 236, 120)),
            ((36, 70, 160), (255, 226, 60)),
        ),
        shape="plain",
        frame="none",
        ornament="stripes",
    ),
    "New Delhi": BoardStyle(
        face="DejaVuSerif-Bold",
        upper=False,
        weight=0.0,
        paints=(
            ((150, 30, 44), (255, 226, 130)),
            ((255, 176, 60), (96, 18, 30)),
            ((14, 92, 96), (255, 238, 190)),
            ((255, 240, 206), (130, 30, 70)),
            ((96, 30, 96), (255, 214, 110)),
        ),
        shape="rounded",
        frame="single",
        ornament="headline",
    ),
    "Hong Kong": BoardStyle(
        face="DejaVuSansMono-Bold",
        upper=True,
        weight=0.0,
        paints=(
            ((26, 16, 34), (255, 96, 150)),
            ((14, 26, 44), (96, 236, 255)),
            ((186, 20, 28), (255, 226, 90)),
            ((16, 40, 28), (140, 255, 150)),
            ((30, 18, 20), (255, 190, 70)),
        ),
        shape="plain",
        frame="neon",
        ornament="column",
    ),
    "Melbourne": BoardStyle(
        face="STIXGeneralBol",
        upper=True,
        weight=0.01,
        paints=(
            ((18, 58, 44), (240, 212, 140)),
            ((78, 24, 32), (244, 222, 170)),
            ((28, 38, 66), (238, 214, 156)),
            ((236, 224, 196), (70, 34, 26)),
        ),
        shape="arched",
        frame="double",
        ornament="none",
    ),
    "Milan": BoardStyle(
        face="STIXGeneralBolIta",
        upper=False,
        weight=0.015,
        paints=(
            ((250, 242, 220), (150, 52, 26)),
            ((246, 236, 206), (24, 84, 54)),
            ((40, 76, 58), (250, 240, 212)),
            ((122, 40, 34), (252, 238, 208)),
        ),
        shape="scalloped",
        frame="none",
        ornament="tricolour",
    ),
    "London": BoardStyle(
        face="DejaVuSans-Bold",
        upper=False,
        weight=0.0,
        paints=(
            (BLACK, WHITE),
            ((16, 34, 84), WHITE),
            ((96, 18, 40), (250, 240, 214)),
            ((20, 70, 52), (246, 236, 200)),
        ),
        shape="plain",
        frame="single",
        ornament="roundel",
    ),
    "San Francisco": BoardStyle(
        face="DejaVuSerif-BoldItalic",
        upper=False,
        weight=0.0,
        paints=(
            ((255, 222, 226), (110, 26, 84)),
            ((206, 238, 240), (16, 62, 110)),
            ((255, 240, 186), (122, 52, 16)),
            ((222, 240, 206), (20, 84, 66)),
            ((196, 70, 40), (255, 244, 220)),
        ),
        shape="notched",
        frame="bulbs",
        ornament="none",
    ),
    "Buenos Aires": BoardStyle(
        face="cmb10",
        upper=True,
        weight=0.02,
        paints=(
            ((20, 22, 30), (250, 214, 110)),
            ((116, 176, 226), (18, 26, 66)),
            ((18, 52, 120), (252, 244, 220)),
            ((150, 24, 36), (252, 226, 150)),
        ),
        shape="rounded",
        frame="double",
        ornament="scrolls",
    ),
}
