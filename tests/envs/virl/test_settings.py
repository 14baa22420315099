"""Settings: what the presets mean, and one sentence for each value or pair that cannot be."""

import pytest

from configs.load import ConfigError
from envs.registry import check_settings
from envs.virl.env import VIRL
from envs.virl.settings import Settings, resolve


def test_presets() -> None:
    fixed, text, code = (resolve(Settings(preset=p)) for p in ("fixed", "paper_text", "paper_code"))
    assert (fixed.view_layout, text.view_layout, code.view_layout) == (
        "cardinal",
        "cardinal",
        "legacy",
    )
    assert (fixed.wrap, code.wrap) == (True, False)
    assert (fixed.extra_answer, code.extra_answer) == (False, True)
    assert (fixed.legacy_parser, code.legacy_parser) == (False, True)
    assert (fixed.observation, text.observation, code.observation) == (
        "truth",
        "landmark",
        "inverted",
    )


def test_a_setting_overrides_its_preset() -> None:
    rules = resolve(Settings(preset="paper_code", view_layout="cardinal", penalty_mode="sum"))
    assert (rules.view_layout, rules.penalty_mode, rules.wrap) == ("cardinal", "sum", False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modality": "visoin"}, ["modality=visoin", "nearest is vision"]),
        ({"city": "Lagoss"}, ["city=Lagoss", "nearest is Lagos"]),
        ({"drop_rate": 1.5}, ["drop_rate", "1.5", "at most 1"]),
        ({"verify_iter": 0}, ["verify_iter=0", "at least 1"]),
        ({"image_size": "big"}, ["image_size", "'big'", "whole number"]),
        ({"init_heading": 360}, ["init_heading=360", "at most 359"]),
        ({"city": "benchmark", "split": "train"}, ["split", "'train'", "benchmark"]),
        ({"trajectories": "suboptimal", "verify_iter": 1}, ["verify_iter", "1", "at least 2"]),
        ({"prompt_diversity": True, "prompt_style": "brief"}, ["prompt_diversity", "brief"]),
        ({"world": ".", "city": "Milan"}, ["city", "'Milan'", "data set"]),
        ({"max_legs": 6}, ["max_legs=6", "at most 5"]),
        ({"world": ".", "max_legs": 3}, ["max_legs", "3", "data set"]),
        ({"world": ".", "split": "test"}, ["split", "'test'", "data set"]),
    ],
)
def test_refusals_name_key_value_and_rule(settings, words) -> None:
    with pytest.raises(ConfigError) as error:
        VIRL(**settings)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"verify_iter": 1.5}, ["verify_iter=1.5", "whole number"]),
        ({"verify_iter": "two"}, ["verify_iter", "'two'"]),
        ({"routes": 2.5}, ["routes=2.5", "whole number"]),
        ({"drop_rate": "half"}, ["drop_rate", "'half'"]),
        ({"drop_rate": float("nan")}, ["drop_rate", "finite"]),
        ({"mapping_radius": float("inf")}, ["mapping_radius", "finite"]),
        ({"prompt_diversity": "maybe"}, ["prompt_diversity", "maybe"]),
        ({"city": ["Milan"]}, ["city"]),
        ({"verify_iters": 2}, ["verify_iters", "nearest is verify_iter"]),
    ],
)
def test_types_are_checked_where_settings_are_made_and_before_a_run(settings, words) -> None:
    for refuse in (lambda: VIRL(**settings), lambda: check_settings("cardinal/VIRL-v0", settings)):
        with pytest.raises(ConfigError) as error:
            refuse()
        assert all(word in str(error.value) for word in words), str(error.value)


def test_a_folder_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"world is '/no/such/folder'; it must be .* that exists"):
        VIRL(world="/no/such/folder")


def test_contradictions_are_refused_before_a_run() -> None:
    with pytest.raises(ConfigError, match="leave split out"):
        check_settings("cardinal/VIRL-v0", {"city": "benchmark", "split": "train"})
    # A data set may lie on the machines of the run alone.
    check_settings("cardinal/VIRL-v0", {"world": "/data/routes"})


@pytest.mark.parametrize(
    "wrong", [{"verify_iter": 1.5}, {"image_size": "2"}, {"drop_rate": "x"}, {"templates": None}]
)
def test_settings_made_directly_are_type_checked(wrong) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"VIRL\.{name}"):
        Settings(**wrong)
