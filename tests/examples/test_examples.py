"""Every example runs: nothing that a newcomer copies is broken."""

import re
import subprocess
import sys
from functools import partial

import pytest

from cluster.cli import main
from configs.paths import ROOT
from configs.study import load_study
from envs.contract import check
from envs.registry import make
from examples.own_model import make_model
from examples.plain_gymnasium import play
from tests.support import layering, pages

EXAMPLES = ROOT / "examples"
SUMS = "examples.own_environment.sums:example/Sums-v0"


def test_none_is_left_out():
    """A new folder comes with a row in the table and a test here."""
    folders = {p.name for p in EXAMPLES.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == {
        "gymnasium_environment",
        "kuberay",  # tests/cluster/launch/test_kuberay.py
        "own_environment",
        "own_model",
        "own_study",
        "plain_gymnasium",
    }
    assert all(f"[{name}/]" in (EXAMPLES / "README.md").read_text() for name in folders)


def test_the_pages_name_nothing_that_is_not_there():
    assert pages.faults(ROOT, EXAMPLES / "README.md") == []


def test_the_environment_is_the_documented_one_and_keeps_the_contract():
    shown = re.search(r"```python\n(.*?)```", (ROOT / "docs/environments.md").read_text(), re.S)
    assert shown[1] == (EXAMPLES / "own_environment" / "sums.py").read_text()
    check(partial(make, SUMS, {"largest": 20, "tries": 2}), episodes=4, processes=False)


def test_the_documented_reward_of_ones_own_is_one(tmp_path, monkeypatch):
    text = (ROOT / "docs/environments.md").read_text().split("## Rewards of your own")[1]
    (tmp_path / "shorter.py").write_text(re.search(r"```python\n(.*?)```", text, re.S)[1])
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"prompt_style": "brief", "rewards": {"solved": 10}}
    env = make("shorter:example/Shorter-v0", settings)
    env.reset(seed=0)
    answer = env.expert()
    assert env.step(answer)[1:3] == (10 - 0.01 * len(answer), True)
    check(partial(make, "shorter:example/Shorter-v0", settings), episodes=2, processes=False)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_environment_grades_sums(seed):
    env = make(SUMS, {"largest": 9, "tries": 2})
    message = env.reset(seed=seed)[0]["message"]
    assert env.step("no")[1:4] == (-1.0, False, False)
    answer = str(sum(map(int, message.split("+"))))
    assert env.step(answer)[1:4] == (1.0, True, False)


def test_its_configuration_can_be_run(tmp_path, capfd):
    file = str(EXAMPLES / "own_environment" / "sums.yaml")
    assert main(["check", file, f"cluster.root={tmp_path}"]) == 0
    assert "example/Sums-v0" in capfd.readouterr().out


def test_a_plain_environment_is_trained_on_from_a_model_folder(tmp_path, capfd):
    file, folder = str(EXAMPLES / "gymnasium_environment" / "guess.yaml"), str(tmp_path / "own")
    make_model.main([folder])
    keys = [f"model.path={folder}", f"cluster.root={tmp_path}"]
    assert main(["check", file, *keys]) == 0
    assert "example/Guess-v0" in capfd.readouterr().out
    assert main(["check", file, *keys, "sft.steps=1"]) == 2
    assert "has no demonstrations of its own" in capfd.readouterr().err
    source = (EXAMPLES / "gymnasium_environment" / "guess.py").read_text()
    assert not re.search(r"(import|from) (envs|configs|rollout|cluster)", source)


def test_the_model_can_be_trained(tmp_path, capfd):
    folder = str(tmp_path / "own")
    make_model.main([folder])
    keys = [f"model.path={folder}", f"cluster.root={tmp_path}", "rollout.context_tokens=128"]
    assert main(["check", "gp_l", *keys]) == 0
    full = "env.settings.prompt_style=full"  # a token a byte: it is longer than the context
    assert main(["check", "gp_l", *keys, full]) == 2
    assert "rollout.context_tokens" in capfd.readouterr().err


def test_the_study_has_its_arms(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)  # its run folders lie under the current one
    file = EXAMPLES / "own_study" / "sums.yaml"
    arms = load_study(file).arms
    assert list(arms) == ["sft", "sft_ppo", "sft_long", "early_ppo"]
    assert arms["early_ppo"].at == 50
    assert main(["study", str(file), "--check"]) == 0
    assert "sft_long" in capfd.readouterr().out


def test_an_environment_is_played_from_plain_gymnasium():
    assert play.add("A 5 10 K=10") == "1+5+10+10"
    assert play.play(lambda message: "", 3) == 0.0
    code = (
        "import sys\nfrom examples.plain_gymnasium.play import main\nmain(['--episodes', '200'])\n"
        f"print(sorted(set(sys.modules) & set({layering.WITHOUT['report']!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    solved, imported = done.stdout.splitlines()
    assert 0 < float(solved.split()[1].rstrip("%")) < 20
    assert imported == "[]"
