"""The words of the procedural world: landmark names, street names, shop signs.

Plain ASCII words, so that a small tokenizer holds them all. All cities share one stock of
landmark words and add a few of their own.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WORDS = _words(
    "Golden Silver Blue Red Green Royal Grand Little Old New Sunny Lucky Happy Central River "
    "Garden Star Moon Lion Tiger Eagle Swan Rose Lotus Maple Cedar Olive Lemon Pearl Coral"
)

KINDS = _words(
    "Bakery Cafe Hotel Bank Museum Theatre Library Market Pharmacy Diner Books Cinema Gallery "
    "Studio Grill Tailor"
)

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

# What ordinary shop fronts say: goods and trades, never a landmark's name.
SHOP_SIGNS = _words(
    "DELI SHOES PHONES LAUNDRY BARBER FLOWERS PIZZA TOYS OPTICS TEA FRUIT HARDWARE SALON MUSIC "
    "BIKES PAPER KEYS GIFTS NOODLES TAXI PAINT LAMPS CARPETS WATCHES HATS SPICES TRAVEL PETS "
    "DENTIST GYM YOGA STAMPS RECORDS CANDLES GLASS BAGS"
)

CITY_SHOP_SIGNS = {
    "New York": "BAGELS BODEGA PRETZELS LOFTS VINYL NAILS PAWN SODA SUBS COMICS DONUTS WINGS",
    "Lagos": "SUYA ANKARA BUKA TYRES AGEGE GARRI ADIRE RECHARGE JOLLOF ASOEBI GENERATOR YAM",
    "New Delhi": "CHAI SAREES SWEETS DHABA KIRANA PAAN LASSI BANGLES MEHNDI DOSA JEWELS SILK",
    "Hong Kong": "DIMSUM CONGEE HERBS MAHJONG JADEITE WONTON SNAKE ROAST GINSENG FISH TARTS PORK",
    "Melbourne": "PIES SURF FOOTY FLATS BREWS OPALS BRUNCH TRAMS MILKBAR WOOL WINE CRICKET",
    "Milan": "MODA SCARPE GELATO FORNO PASTA BARBIERE LIBRI FIORI VINO TABACCHI SARTO PANE",
    "London": "CHIPS PIES TEAROOM BOOKIES KEBAB CURRY PRINTS CHEMIST LACE ALES TWEED CRUMPETS",
    "San Francisco": "TACOS BURRITO SURF HEMP KITES CLAMS RAMEN BIKERY VINYL JUICE POKE TATTOO",
    "Buenos Aires": "PARRILLA LIBROS CUEROS MATE PAN FLORES ALFAJOR YERBA PIANO BOTAS VINOS DULCE",
}


def shop_signs(city: str) -> list[str]:
    """What the ordinary shops of a city say, each word once."""
    return [*SHOP_SIGNS, *_words(CITY_SHOP_SIGNS[city])]


def landmark_names(city: str) -> list[str]:
    """Every landmark name that a city may use, in a fixed order."""
    return [f"{word} {kind}" for word in (*WORDS, *CITY_WORDS[city]) for kind in KINDS]
