"""Settings that are made directly are checked as those of a configuration are."""

from __future__ import annotations

import dataclasses

import pytest

from configs.leaf import leaf
from envs.general_points.settings import Settings as GeneralPointsSettings
from envs.settings import check_values


@dataclasses.dataclass(frozen=True)
class Settings:
    tries: int = leaf(3, "tries", low=1, high=9)
    share: float = leaf(0.5, "share", low=0, high=1)
    name: str | None = leaf(None, "name", choices=(None, "a", "b"))
    on: bool = leaf(False, "switch")
    files: dict[str, str] = leaf({}, "files")

    def __post_init__(self) -> None:
        check_values(self, "Toy")


@pytest.mark.parametrize(
    "keywords",
    [{}, {"tries": 1}, {"tries": 9}, {"share": 1}, {"share": 0.0}, {"name": "b"}, {"on": True}],
)
def test_right_settings_are_made(keywords):
    made = Settings(**keywords)
    assert all(getattr(made, key) == value for key, value in keywords.items())


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"tries": 1.5}, "Toy.tries=1.5: must be a whole number"),
        ({"tries": True}, "Toy.tries=True: must be a whole number"),
        ({"tries": "3"}, "Toy.tries='3': must be a whole number"),
        ({"tries": None}, "Toy.tries=None: must be a whole number"),
        ({"share": "0.5"}, "Toy.share='0.5': must be a number"),
        ({"share": False}, "Toy.share=False: must be a number"),
        ({"name": 1}, "Toy.name=1: must be text or null"),
        ({"on": 1}, "Toy.on=1: must be true or false"),
        ({"on": "false"}, "Toy.on='false': must be true or false"),
        ({"files": []}, r"Toy.files=\[\]: must be keys and values"),
        ({"tries": 0}, "Toy.tries=0: must be at least 1"),
        ({"tries": 10}, "Toy.tries=10: must be at most 9"),
        ({"share": -0.1}, "Toy.share=-0.1: must be at least 0"),
        ({"share": float("nan")}, "Toy.share=nan: must be a finite number"),
        ({"name": "c"}, "Toy.name=c: must be one of null, a, b"),
    ],
)
def test_wrong_settings_are_refused(keywords, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Settings(**keywords)


WRONG = {
    bool: (1, "true", None),
    int: (1.5, True, "1", None),
    float: ("1", True, None),
    str: (1, True, b""),
    dict: ([], "a", None),
    type(None): (1, b"", []),
}
"""Values of another type than a field's default."""


@pytest.mark.parametrize("field", dataclasses.fields(GeneralPointsSettings), ids=lambda f: f.name)
def test_every_field_of_general_points_is_checked(field):
    default = getattr(GeneralPointsSettings(), field.name)
    wrong = ("1", True, b"") if "float | None" in str(field.type) else WRONG[type(default)]
    for value in wrong:
        with pytest.raises(ValueError, match=rf"GeneralPoints\.{field.name}="):
            GeneralPointsSettings(**{field.name: value})
