"""Studies: what a file may hold, the arms of a sweep, and the order of arms."""

import re

import pytest
import yaml

from configs.load import ConfigError, dump
from configs.study import FOLDER, load_study

HEAD = "base: gp_l_debug\nset: {ppo.updates: 0}\n"


def study(folder, text, name="mine.yaml"):
    (folder / name).write_text(text)
    return load_study(folder / name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not YAML"),
        ("- a", "must hold keys and values"),
        (f"{HEAD}bass: 1", "there is no key bass; there are arms, base, primary, root, seeds, set"),
        ("arms: {a: {}}", "base must name a configuration"),
        (f"{HEAD}seeds: 3", "seeds=3 must be a list of whole numbers"),
        (f"{HEAD}seeds: []", "seeds=[] must be a list of whole numbers"),
        (f"{HEAD}seeds: [true]", "seeds=[True] must be a list of whole numbers"),
        (f"{HEAD}seeds: [1, 1]", "seeds=[1, 1] names a seed twice"),
        (
            "base: gp_l_debug\narms: {a: }\nseeds: [1, 4236067978]",
            "runs of 1 and 4236067978 would play the",
        ),
        (HEAD, "arms must hold at least one arm"),
        (f"{HEAD}arms: {{}}", "arms must hold at least one arm"),
        (f"{HEAD}arms: {{a_n-1: , a: {{sweep: {{n: [1]}}}}}}", "there are two arms of this name"),
        ("base: gp_l_debug\nset: 3\narms: {a: {}}", "set=3: must be a mapping or a list of"),
        (f"{HEAD}arms: {{a: 3}}", "arms.a: must hold keys and values"),
        (f"{HEAD}arms: {{a: {{sweep: {{name: [x/y]}}}}}}", "'a_name-x/y' must be a plain folder"),
        (f"{HEAD}arms: {{a: {{at: 1.5, from: b}}}}", "arms.a.at=1.5: must be an SFT step"),
    ],
)
def test_what_a_file_may_not_hold(tmp_path, text, words):
    with pytest.raises(ConfigError) as error:
        study(tmp_path, text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).count(".yaml: ") == 1  # the study's, once
    assert str(error.value).startswith(str(tmp_path))


def test_a_study_that_is_not_there_names_those_that_are():
    with pytest.raises(ConfigError, match=r"nowhere: there is no such study; .*gp_l_cpu"):
        load_study("nowhere")


@pytest.mark.parametrize("name", [file.stem for file in sorted(FOLDER.glob("*.yaml"))])
def test_a_shipped_study_is_found_by_its_bare_name(name):
    assert load_study(name).name == load_study(f"{name}.yaml").name == name


def test_defaults_and_a_base_next_to_the_study(tmp_path):
    (tmp_path / "own.yaml").write_text("ppo: {updates: 3}\nseed: 5\n")
    own = study(tmp_path, "base: own.yaml\narms:\n  a:\n")
    assert (own.root, own.seeds, own.base) == ("runs", (0,), str(tmp_path / "own.yaml"))
    run = own.run("a", 7)
    assert (run.seed, run.name, run.ppo.updates) == (7, "seed7", 3)
    assert run.cluster.root == str(own.folder / "a")


def test_each_arm_has_its_own_place_of_states(tmp_path):
    head = 'base: gp_l\nset: {learner.checkpoint_root: "s3://b/c?region=x"}\narms: {a: , b: }\n'
    own = study(tmp_path, head)
    places = [own.run(arm, 0).learner.checkpoint_root for arm in own.arms]
    assert places == [f"s3://b/c/{own.name}/{arm}?region=x" for arm in ("a", "b")]


def test_a_sweep_is_an_arm_for_each_combination(tmp_path):
    arms = "arms: {a: {set: {seed: 1}, sweep: {ppo.clip: [0.1, 0.2], ppo.epochs: [1, 2]}}}"
    swept = study(tmp_path, HEAD.replace("0}", "3}") + arms)
    assert list(swept.arms) == [
        f"a_clip-{clip}_epochs-{epochs}" for clip in (0.1, 0.2) for epochs in (1, 2)
    ]
    run = swept.run("a_clip-0.2_epochs-1", 0)
    assert (run.ppo.clip, run.ppo.epochs, run.ppo.updates) == (0.2, 1, 3)


def test_an_arm_after_pretraining_is_measured_from_where_that_ends(tmp_path):
    chain = study(
        tmp_path,
        HEAD + "arms:\n"
        "  ppo: {from: sft, set: {sft.steps: 0, ppo.updates: 3}}\n"
        "  more: {from: sft, match: ppo}\n"
        "  sft: {from: pretrain, set: {sft.steps: 4}}\n"
        "  pretrain: {set: {sft.steps: 8}}\n",
    )
    assert list(chain.arms) == ["pretrain", "sft", "ppo", "more"]
    assert chain.arms["more"].needs == ["sft", "ppo"]
    assert chain.origin("more") == chain.origin("sft") == "sft"
    assert chain.origin("pretrain") == "pretrain"
    assert chain.run("ppo", 0).eval.start == str(chain.folder / "sft" / "seed0")
    assert chain.run("sft", 0).eval.start is None
    assert chain.measured("more") == ["sft", "pretrain"]
    assert chain.run("more", 0, steps=9).sft.steps == 9
    assert chain.run("sft", 0, steps=9).sft.steps == 4


def test_sft_that_continues_sft_continues_its_order(tmp_path):
    """From its beginning, a longer arm would repeat what its source saw: memorising and repetition
    could not be told apart.
    """
    arms = {
        "other": {"set": {"env.settings.face_rule": "any", "sft.steps": 5}},
        "sft": {"from": "other", "set": {"sft.steps": 10, "sft.keep": [4]}},
        "longer": {"from": "sft", "set": {"sft.steps": 20}},
        "longest": {"from": "longer", "set": {"sft.steps": 1}},
        "early": {"from": "sft", "at": 4, "set": {"sft.steps": 20}},
        "ppo": {"from": "sft", "set": {"sft.steps": 0, "ppo.updates": 3}},
        "again": {"from": "ppo", "set": {"sft.steps": 2}},
        "back": {"from": "longer", "set": {"env.settings.face_rule": "any", "sft.steps": 1}},
        "matched": {"from": "sft", "match": "ppo"},
        "after_matched": {"from": "matched", "set": {"sft.steps": 3}},
    }
    settings = {"sft.batch_size": 6, "ppo.updates": 0}
    plan = study(
        tmp_path,
        yaml.safe_dump({"base": "gp_l", "root": str(tmp_path), "set": settings, "arms": arms}),
    )
    skips = {arm: plan.run(arm, 3).sft.skip for arm in arms}
    assert skips == {
        "other": 0,
        "sft": 0,  # its demonstrations are others
        "longer": 60,
        "longest": 180,
        "early": 24,
        "ppo": 0,
        "again": 60,  # PPO took no demonstration
        "back": 30,  # those of `other`
        "matched": 60,
        "after_matched": 60,  # nobody knows the steps of `matched` yet
    }
    begun = plan.folder / "matched" / "seed3"
    begun.mkdir(parents=True)
    (begun / "config.yaml").write_text(dump(plan.run("matched", 3, 7)))
    assert plan.run("after_matched", 3).sft.skip == 60 + 7 * 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": [0, 1]}, "seeds=[0, 1]: primary comparisons are tested over training seeds and"),
        ({"primary": "hard"}, "primary[0].variant=hard: arm a does not evaluate it; it evaluates"),
        ({"arms": {"start": {}}}, "arms.start: start stands for the initial model"),
    ],
)
def test_what_can_never_be_decided(tmp_path, change, words):
    arms = {"a": {}, "b": {"set": {"eval.variants.hard": {}}}} | change.get("arms", {})
    variant = change.get("primary", "train")
    values = {
        "base": "gp_l_debug",
        "seeds": change.get("seeds", [0, 1, 2]),
        "arms": arms,
        "primary": [{"arm": "b", "against": "a", "variant": variant}],
    }
    with pytest.raises(ConfigError, match=re.escape(words)):
        study(tmp_path, yaml.safe_dump(values))
    good = values | {"arms": {"a": {}, "b": {}}, "seeds": [0, 1, 2]}
    good["primary"] = [{"arm": "b", "against": "start", "variant": "train"}]
    assert len(study(tmp_path, yaml.safe_dump(good)).primary) == 1


TWO = "base: gp_l_debug\nseeds: [0, 1, 2]\n"


@pytest.mark.parametrize(
    ("arms", "primary", "words"),
    [
        (
            "{a: {set: {env.settings.verify_iter: 5}}, b: {}}",
            "{arm: a, against: b, variant: train}",
            "primary[0].measure=success: on train, arm a plays verify_iter=5 and b verify_iter=2: "
            "that is not the same task; set eval.variants.train.verify_iter for both, or compare "
            "by first_try",
        ),
        (
            "{a: {set: {env.settings.verify_iter: 5}}, b: {}}",
            "{arm: a, against: b, variant: train, measure: first_try}",
            None,
        ),
        (
            "{a: {set: {env.settings.verify_iter: 5, eval.variants.train.verify_iter: 2}}, b: {}}",
            "{arm: a, against: b, variant: train}",
            None,
        ),
        (
            "{a: {}, b: {from: a, set: {env.settings.face_rule: ranks}}}",
            "{arm: b, against: a, variant: train, measure: first_try}",
            "on train, arm b plays face_rule=ranks and a face_rule=its default",
        ),
        (  # the initial model is played by the first arm of the chain
            "{a: {}, b: {from: a, set: {env.settings.verify_iter: 5}}}",
            "{arm: b, against: start, variant: train}",
            "on train, arm b plays verify_iter=5 and a verify_iter=2",
        ),
        (
            "{a: {}, b: {set: {preset: paper_code}}}",
            "{arm: a, against: b, variant: train}",
            "arm a plays preset=fixed and b preset=paper_code",
        ),
        (
            "{a: {}, b: {set: {env.id: cardinal/VIRL-v0, env.settings: {}}}}",
            "{arm: a, against: b, variant: train}",
            "; compare arms of one environment",
        ),
        (
            "{a: {}, b: {}}",
            "{arm: a, against: b, variant: train, measure: recognition}",
            "primary[0].measure=recognition: on train nothing is seen; it needs modality=vision",
        ),
        (
            "{a: {}, b: {}}",
            "{arm: a, against: start, variant: train, measure: per_step_accuracy}",
            "cardinal/GeneralPoints-v0 does not measure it; cardinal/VIRL-v0 does",
        ),
        (
            "{a: {}, b: {set: {env.settings.rewards: {solved: 1}}}}",
            "{arm: a, against: b, variant: train}",
            None,
        ),
    ],
)
def test_a_comparison_is_of_one_task(tmp_path, arms, primary, words):
    text = f"{TWO}arms: {arms}\nprimary: [{primary}]\n"
    if words is None:
        assert len(study(tmp_path, text).primary) == 1
        return
    with pytest.raises(ConfigError) as error:
        study(tmp_path, text)
    assert words in str(error.value)


def test_a_measure_that_its_environment_has_is_taken(tmp_path):
    head = "base: virl_vl\nseeds: [0, 1, 2]\narms: {a: {}, b: {}}\n"
    for measure in ("recognition", "per_step_accuracy"):
        named = f"primary: [{{arm: a, against: b, variant: train, measure: {measure}}}]\n"
        assert study(tmp_path, head + named).primary[0].measure == measure
