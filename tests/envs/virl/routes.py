"""Routes as data for the tests of V-IRL."""

from envs.virl.geometry import COMPASS
from envs.virl.route import NO_LANDMARK, Landmark, Leg, Route


def staircase(*lengths_m: float) -> Route:
    """A staircase of legs of given lengths, north and east in turn."""
    legs, lat, lng = [], 0.0, 0.0
    for i, metres in enumerate(lengths_m):
        lat, lng = (lat + metres / 111_195, lng) if i % 2 == 0 else (lat, lng + metres / 111_195)
        last = i == len(lengths_m) - 1
        landmark = Landmark("Red Bank", (lat, lng)) if last else None
        text = "The destination Red Bank is on your left" if last else NO_LANDMARK
        heading = 90 * (i % 2)
        legs.append(Leg(heading, COMPASS[heading // 45], (lat, lng), landmark, text, round(metres)))
    return Route("stairs/0", "stairs", (0.0, 0.0), 350, tuple(legs))
