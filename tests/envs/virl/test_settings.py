"""Settings: what the presets mean, and one sentence for each value or pair that cannot be."""

import pytest

from envs.virl.env import VIRL
from envs.virl.settings import Settings, check, resolve


def test_presets() -> None:
    fixed, text, code = (resolve(Settings(preset=p)) for p in ("fixed", "paper_text", "paper_code"))
    assert (fixed.view_layout, text.view_layout, code.view_layout) == (
        "cardinal", "cardinal", "legacy",
    )  # fmt: skip
    assert (fixed.wrap, code.wrap) == (True, False)
    assert (fixed.extra_answer, code.extra_answer) == (False, True)
    assert (fixed.legacy_parser, code.legacy_parser) == (False, True)
    assert (fixed.observation, text.observation, code.observation) == (
        "truth", "landmark", "inverted",
    )  # fmt: skip


def test_a_setting_overrides_its_preset() -> None:
    rules = resolve(Settings(preset="paper_code", view_layout="cardinal", penalty_mode="sum"))
    assert (rules.view_layout, rules.penalty_mode, rules.wrap) == ("cardinal", "sum", False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modality": "visoin"}, ["modality", "'visoin'", "'vision'"]),
        ({"city": "Lagoss"}, ["city", "'Lagoss'", "'Lagos'"]),
        ({"drop_rate": 1.5}, ["drop_rate", "1.5", "between 0 and 1"]),
        ({"verify_iter": 0}, ["verify_iter", "0", "at least 1"]),
        ({"image_size": "big"}, ["image_size", "'big'", "number"]),
        ({"init_heading": 360}, ["init_heading", "360", "359"]),
        ({"city": "benchmark", "split": "train"}, ["split", "'train'", "benchmark"]),
        ({"trajectories": "suboptimal", "verify_iter": 1}, ["verify_iter", "1", "at least 2"]),
        ({"prompt_diversity": True, "prompt_style": "brief"}, ["prompt_diversity", "brief"]),
        ({"world": "/no/such/folder"}, ["world", "'/no/such/folder'", "folder that exists"]),
        ({"world": ".", "city": "Milan"}, ["city", "'Milan'", "data set"]),
        ({"max_legs": 6}, ["max_legs", "6", "between 2 and 5"]),
        ({"world": ".", "max_legs": 3}, ["max_legs", "3", "data set"]),
        ({"world": ".", "split": "test"}, ["split", "'test'", "data set"]),
    ],
)
def test_refusals_name_key_value_and_rule(settings, words) -> None:
    with pytest.raises(ValueError) as error:
        VIRL(**settings)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_all_defaults_are_allowed() -> None:
    check(Settings())
