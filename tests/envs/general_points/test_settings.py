"""What GeneralPoints can be asked for, what presets mean, what cannot be."""

from __future__ import annotations

import dataclasses

import pytest

from envs.general_points.env import GeneralPoints
from envs.general_points.settings import Resolved, Settings, resolve


def test_every_key_is_documented():
    for field in dataclasses.fields(Settings):
        assert field.metadata["doc"], field.name


def test_presets_decide_the_nulls():
    assert resolve(Settings()) == Resolved(False, "verifier", False, False, False, False)
    assert resolve(Settings(preset="paper_text")) == resolve(Settings())
    released = Resolved(True, "prefix_hint", True, True, True, True)
    assert resolve(Settings(preset="paper_code")) == released
    brief = resolve(Settings(preset="paper_code", prompt_style="brief"))
    assert brief == dataclasses.replace(released, legacy_parser=False)


def test_what_is_given_stands_above_the_preset():
    resolved = resolve(
        Settings(
            preset="paper_code",
            deck="without",
            feedback="none",
            penalty_mode="first",
            partial_reward=False,
            parser="lenient",
        )
    )
    assert resolved == Resolved(False, "none", False, False, False, True)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"suits": "black"}, "suits needs modality=vision"),
        ({"max_rank": 10, "face_rule": "ranks"}, "no face cards for face_rule=ranks"),
        ({"max_rank": 10, "fake_rule": "ranks"}, "no face cards for fake_rule=ranks"),
        ({"max_rank": 10, "require_face": True}, "no face cards for require_face"),
        ({"fake_rule": "ten"}, "fake_rule=ten is the rule that face_rule already states"),
        ({"face_rule": "mixed", "fake_rule": "ten"}, "fake_rule needs one stated rule"),
        ({"prompt_diversity": True, "fake_rule": "five"}, "needs fake_rule=null"),
        ({"prompt_diversity": True, "max_rank": 9}, "prompt_diversity needs face cards"),
        ({"hands": "held_out", "hold_out": 0.0}, "needs hold_out above 0"),
        ({"hands": "train", "hold_out": 1.0}, "needs hold_out below 1"),
        ({"num_cards": 5, "max_rank": 1}, "more than the 4 cards of a deck"),
        (
            {"modality": "vision", "suits": "red", "num_cards": 5, "max_rank": 2},
            "more than the 4 cards of a deck",
        ),
        ({"num_cards": 6, "feedback": "prefix_hint"}, "too many solution strings"),
        ({"preset": "paper_code", "rewards": {"solved": 1.0}}, "rewards are not those of"),
        ({"rewards": {"solve": 1.0}}, "GeneralPoints.rewards.solve: there is no such reward"),
        ({"parser": "strict_legacy", "prompt_style": "brief"}, "needs prompt_style=full"),
        ({"trajectories": "suboptimal", "verify_iter": 1}, "needs verify_iter of at least 2"),
        ({"corrected_share": 0.2}, "corrected_share needs trajectories=corrected, not optimal"),
        ({"trajectories": "suboptimal", "corrected_share": 0.0}, "not suboptimal"),
        ({"trajectories": "corrected", "corrected_share": 1.1}, "corrected_share=1.1"),
        ({"trajectories": "corrected", "corrected_share": -0.1}, "corrected_share=-0.1"),
        ({"no_such": 1}, "there is no such key"),
        ({"verify_iter": 0}, "must be at least 1"),
    ],
)
def test_contradictions_are_one_sentence(keywords, message):
    with pytest.raises(ValueError, match=message) as caught:
        GeneralPoints(**keywords)
    assert "\n" not in str(caught.value)
