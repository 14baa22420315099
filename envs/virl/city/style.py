"""What makes a city look like itself: street pattern, heights, colours, furniture, traffic.

One CityStyle a named city. Colours are (red, green, blue), lengths metres, angles degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

from envs.virl.geometry import Place

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class CityStyle:
    """Parameters of one city's streets and looks.

    origin: where its local metres start; grid_heading: heading of its streets;
    bend: degrees by which streets bend in the middle of the city.
    block: least and greatest distance between parallel streets.
    jitter: standard deviation of an intersection's displacement.
    removed: share of streets that are left out; diagonals: share of blocks cut by one.
    half_width: of streets and of avenues, from house to house.
    heights: least and greatest height of a front; floor: height of a storey.
    front: kind of building front (drawing/fronts.py draws them).
    walls, trims: colours of fronts and of frames, cornices, shutters.
    trees: kind and trees a hundred metres; vehicles: kinds; furniture: kinds.
    """

    name: str
    origin: Place
    grid_heading: float
    bend: float
    block: tuple[float, float]
    jitter: float
    removed: float
    diagonals: float
    half_width: tuple[float, float]
    heights: tuple[float, float]
    floor: float
    front: str
    walls: tuple[Colour, ...]
    trims: tuple[Colour, ...]
    sky: tuple[Colour, Colour]
    clouds: float
    haze: Colour
    road: Colour
    pavement: Colour
    marking: Colour
    tree: str
    trees: float
    vehicles: tuple[str, ...]
    furniture: tuple[str, ...]


_STYLES = (
    CityStyle(
        "New York", (40.7420, -73.9890), 29.0, -25.0, (70, 125), 0.0, 0.06, 0.12,
        (9.0, 11.0), (16, 46),
        3.4, "brick",
        ((142, 68, 52), (122, 60, 48), (160, 92, 70), (118, 104, 92), (150, 142, 130),
         (98, 78, 70)),
        ((214, 204, 186), (60, 58, 56), (188, 176, 156)),
        ((74, 128, 196), (190, 214, 236)), 0.35, (186, 200, 214),
        (72, 72, 76), (158, 156, 150), (226, 226, 220),
        "round", 2.5, ("taxi", "sedan", "taxi", "van"), ("hydrant", "lamp", "signal", "bin"),
    ),
    CityStyle(
        "Lagos", (6.4550, 3.3940), 12.0, 25.0, (60, 115), 7.0, 0.10, 0.12,
        (8.0, 10.0), (5, 13),
        3.2, "concrete",
        ((226, 196, 120), (214, 158, 98), (150, 190, 178), (226, 214, 186), (204, 126, 104),
         (168, 176, 120)),
        ((120, 86, 62), (236, 232, 216), (70, 110, 96)),
        ((150, 182, 206), (232, 224, 204)), 0.5, (226, 214, 190),
        (142, 104, 78), (178, 134, 98), (206, 184, 150),
        "palm", 2.2, ("danfo", "danfo", "sedan", "keke"), ("umbrella", "pole", "crates"),
    ),
    CityStyle(
        "New Delhi", (28.6310, 77.2190), 64.0, 25.0, (65, 120), 6.0, 0.09, 0.12,
        (9.0, 11.0), (7, 17),
        3.3, "sandstone",
        ((206, 158, 118), (190, 112, 88), (226, 200, 158), (214, 178, 140), (232, 222, 200)),
        ((150, 74, 56), (244, 236, 214), (112, 92, 74)),
        ((186, 190, 186), (232, 214, 178)), 0.15, (222, 204, 170),
        (108, 102, 94), (186, 160, 126), (232, 222, 190),
        "broad", 4.0, ("rickshaw", "rickshaw", "sedan", "bus_blue"), ("pole", "bench", "pots"),
    ),
    CityStyle(
        "Hong Kong", (22.3180, 114.1700), 6.0, 25.0, (55, 95), 3.0, 0.05, 0.12,
        (7.5, 9.0), (38, 70),
        3.0, "tower",
        ((196, 206, 196), (222, 200, 194), (178, 190, 200), (214, 210, 190), (166, 178, 168)),
        ((88, 104, 100), (148, 72, 66), (236, 236, 230)),
        ((120, 158, 186), (206, 216, 216)), 0.6, (196, 206, 206),
        (66, 68, 70), (168, 164, 156), (236, 222, 130),
        "round", 0.8, ("taxi_red", "tram_tall", "taxi_red", "minibus"), ("neon", "neon", "rail"),
    ),
    CityStyle(
        "Melbourne", (-37.8140, 144.9630), 340.0, -25.0, (70, 120), 0.0, 0.06, 0.12,
        (10.0, 12.0), (8, 19),
        3.8, "victorian",
        ((222, 206, 174), (176, 120, 92), (108, 108, 112), (236, 226, 204), (196, 168, 132)),
        ((72, 92, 84), (240, 236, 224), (120, 60, 52)),
        ((48, 122, 206), (176, 214, 242)), 0.25, (196, 214, 230),
        (88, 88, 90), (132, 130, 128), (240, 240, 236),
        "plane", 3.5, ("tram", "sedan", "sedan", "tram"), ("lamp_old", "bench", "bin_green"),
    ),
    CityStyle(
        "Milan", (45.4660, 9.1880), 41.0, -25.0, (55, 110), 9.0, 0.10, 0.12,
        (8.5, 10.5), (17, 25),
        3.9, "stucco",
        ((232, 190, 112), (218, 150, 98), (238, 212, 150), (206, 122, 88), (226, 200, 170)),
        ((64, 98, 72), (242, 232, 208), (88, 78, 70)),
        ((104, 154, 212), (214, 226, 236)), 0.2, (214, 214, 210),
        (120, 116, 112), (172, 166, 158), (222, 218, 206),
        "round", 1.2, ("tram_orange", "small", "scooter", "small"), ("lamp_old", "cafe", "bollard"),
    ),
    CityStyle(
        "London", (51.5140, -0.1350), 75.0, -25.0, (55, 105), 8.0, 0.10, 0.12,
        (8.5, 10.5), (10, 18),
        3.3, "terrace",
        ((172, 140, 96), (150, 112, 78), (128, 74, 58), (236, 232, 222), (160, 130, 92)),
        ((244, 242, 236), (34, 36, 40), (220, 216, 204)),
        ((152, 160, 170), (206, 210, 214)), 0.9, (196, 200, 204),
        (84, 86, 88), (150, 148, 142), (236, 232, 214),
        "plane", 1.8, ("bus_red", "cab", "bus_red", "sedan"), ("phone_box", "lamp_old", "bollard"),
    ),
    CityStyle(
        "San Francisco", (37.7860, -122.4260), 9.0, 25.0, (70, 125), 0.0, 0.05, 0.12,
        (9.5, 11.5),
        (8, 14), 3.4, "painted",
        ((150, 190, 210), (238, 206, 150), (206, 160, 176), (170, 200, 160), (236, 232, 220),
         (190, 170, 206)),
        ((255, 252, 244), (90, 80, 110), (212, 170, 80)),
        ((116, 168, 220), (228, 232, 236)), 0.55, (218, 224, 230),
        (102, 104, 108), (190, 188, 182), (238, 238, 232),
        "small", 1.6, ("cable_car", "sedan", "small", "sedan"), ("hydrant_white", "pole", "pots"),
    ),
    CityStyle(
        "Buenos Aires", (-34.5990, -58.3870), 355.0, -25.0, (75, 115), 0.0, 0.05, 0.12,
        (9.0, 12.0),
        (15, 30), 3.6, "parisian",
        ((232, 222, 198), (212, 200, 178), (222, 206, 184), (196, 188, 176), (240, 234, 218)),
        ((96, 100, 108), (250, 246, 234), (62, 64, 68)),
        ((92, 150, 222), (206, 226, 244)), 0.2, (212, 222, 232),
        (96, 98, 100), (206, 192, 164), (242, 230, 160),
        "jacaranda", 3.2, ("taxi_black", "bus_blue", "taxi_black", "small"),
        ("kiosk", "lamp_old", "bench"),
    ),
)  # fmt: skip

STYLES = {style.name: style for style in _STYLES}
