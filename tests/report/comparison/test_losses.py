"""A run's updates against its replay's: the first difference is named, and none is seen."""

import io
import json

from rich.console import Console

from report.comparison.losses import print_losses, update_pairs, verdict


def folder(path, *updates):
    path.mkdir()
    lines = [{"kind": "ppo", "update": n, "seconds": n, **numbers} for n, numbers in updates]
    lines.append({"kind": "sync", "version": 1})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_equal_updates_are_equal_whatever_their_times(tmp_path):
    run = folder(tmp_path / "run", (1, {"loss": 0.5, "kl": 0.1}), (2, {"loss": 0.25, "kl": 0.2}))
    again = folder(
        tmp_path / "again", (2, {"loss": 0.25, "kl": 0.2}), (1, {"loss": 0.5, "kl": 0.1})
    )
    pairs = update_pairs(run, again)
    assert [pair.update for pair in pairs] == [1, 2]
    assert verdict(pairs) == "2 of 2 updates are the run's to the last digit"


def test_the_first_that_differs_is_named_with_both_numbers(tmp_path):
    run = folder(tmp_path / "run", *((n, {"loss": 0.5, "kl": 0.1}) for n in (1, 2, 3)))
    again = folder(
        tmp_path / "again", (1, {"loss": 0.5, "kl": 0.1}), (2, {"loss": 0.5, "kl": 0.10000000001})
    )
    pairs = update_pairs(run, again)
    assert [pair.differing for pair in pairs] == [[], ["kl"]]
    assert verdict(pairs) == (
        "update 2 is the first that differs: kl was 0.1, and is 0.10000000001"
    )
    shown = io.StringIO()
    print_losses(pairs, Console(file=shown, width=100))
    assert "0.5" in shown.getvalue()
    assert "update 2 is the first that differs" in shown.getvalue()
