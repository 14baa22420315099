"""The words of the procedural world: landmark names, street names, shop signs.

Plain ASCII words, so that a small tokenizer holds them all. All cities share one stock of
landmark words and add a few of their own.
"""

from __future__ import annotations

WORDS = (
    "Golden", "Silver", "Blue", "Red", "Green", "Royal", "Grand", "Little", "Old", "New",
    "Sunny", "Lucky", "Happy", "Central", "River", "Garden", "Star", "Moon", "Lion", "Tiger",
    "Eagle", "Swan", "Rose", "Lotus", "Maple", "Cedar", "Olive", "Lemon", "Pearl", "Coral",
)  # fmt: skip

KINDS = (
    "Bakery", "Cafe", "Hotel", "Bank", "Museum", "Theatre", "Library", "Market", "Pharmacy",
    "Diner", "Books", "Cinema", "Gallery", "Studio", "Grill", "Tailor",
)  # fmt: skip

CITY_WORDS = {
    "New York": ("Hudson", "Empire"),
    "Lagos": ("Eko", "Marina"),
    "New Delhi": ("Lodhi", "Chandni"),
    "Hong Kong": ("Kowloon", "Jade"),
    "Melbourne": ("Yarra", "Fitzroy"),
    "Milan": ("Navigli", "Brera"),
    "London": ("Thames", "Soho"),
    "San Francisco": ("Mission", "Golden Gate"),
    "Buenos Aires": ("Tango", "Recoleta"),
}

# What ordinary shop fronts say: kinds of goods, never a landmark's name.
SHOP_SIGNS = (
    "DELI", "SHOES", "PHONES", "LAUNDRY", "BARBER", "FLOWERS", "PIZZA", "TOYS", "OPTICS", "TEA",
    "FRUIT", "HARDWARE", "SALON", "MUSIC", "BIKES", "PAPER", "KEYS", "GIFTS", "NOODLES", "TAXI",
)  # fmt: skip


def landmark_names(city: str) -> list[str]:
    """Every landmark name that a city may use, in a fixed order."""
    return [f"{word} {kind}" for word in (*WORDS, *CITY_WORDS[city]) for kind in KINDS]
