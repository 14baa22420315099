"""What is exported to Prometheus, by which name, and that the dashboard asks for just that."""

import json
import math
import re
import time
import urllib.request

import pytest
import ray

from cluster.run import prometheus
from cluster.run.prometheus import METRICS, QUEUES, RunMetrics
from configs.paths import ROOT
from tests.support.local_ray import local_ray
from tools.draw_grafana import dashboard

DASHBOARD, PAGE = ROOT / "docs" / "grafana.json", ROOT / "docs" / "observability.md"


@pytest.fixture
def gauges(monkeypatch):
    """{(name, tags): value} of all gauges, as Ray would export them."""
    values = {}

    class RecordingGauge:
        def __init__(self, name, description, tag_keys):
            assert description
            self._name, self._keys = name, set(tag_keys)

        def set(self, value, tags):
            assert set(tags) == self._keys
            values[self._name, tuple(tags[key] for key in sorted(tags))] = value

    monkeypatch.setattr(prometheus, "Gauge", RecordingGauge)
    return values


def test_a_record_becomes_gauges(gauges):
    RunMetrics("mine").record(
        "ppo",
        {
            "update": 3,
            "learner_idle": 0.25,
            "engine_idle": [0.5, 0.75],
            "staleness": [4, 2],
            "rollout_tokens_per_second": 10.0,
            "learner_tokens_per_second": 20.0,
            "kl": None,
            "loss": 1.0,
        },
    )
    assert gauges == {
        ("cardinal_ppo_update", ("mine",)): 3.0,
        ("cardinal_learner_idle_ratio", ("mine",)): 0.25,
        ("cardinal_engine_idle_ratio", ("0", "mine")): 0.5,
        ("cardinal_engine_idle_ratio", ("1", "mine")): 0.75,
        ("cardinal_trajectories", ("mine", "0")): 4,
        ("cardinal_trajectories", ("mine", "1")): 2,
        ("cardinal_rollout_tokens_per_second", ("mine",)): 10.0,
        ("cardinal_learner_tokens_per_second", ("mine",)): 20.0,
    }


def test_an_evaluation_is_tagged_by_its_variant(gauges):
    RunMetrics("mine").record("eval", {"variant": "held_out", "success": 0.5, "stage": "sft"})
    assert gauges == {("cardinal_eval_success", ("mine", "held_out")): 0.5}


def test_a_phase_that_an_update_did_not_have_took_no_time(gauges):
    metrics = RunMetrics("mine")
    metrics.record("ppo", {"phase_seconds": {"take": 1.0, "checkpoint": 2.0}})
    metrics.record("ppo", {"phase_seconds": {"take": 3.0}})
    assert gauges == {
        ("cardinal_phase_seconds", ("take", "mine")): 3.0,
        ("cardinal_phase_seconds", ("checkpoint", "mine")): 0.0,
    }


def test_an_engine_that_was_lost_has_no_number_until_it_is_back(gauges):
    metrics = RunMetrics("mine")
    metrics.record("ppo", {"engine_idle": [None, 0.5]})
    assert gauges == {("cardinal_engine_idle_ratio", ("1", "mine")): 0.5}
    metrics.record("ppo", {"engine_idle": [0.25, None]})
    assert gauges.pop(("cardinal_engine_idle_ratio", ("0", "mine"))) == 0.25
    ((name, shown),) = gauges.items()
    assert name == ("cardinal_engine_idle_ratio", ("1", "mine"))
    assert math.isnan(shown)
    metrics.record("ppo", {"engine_idle": [0.25, 0.5]})
    assert gauges[name] == 0.5


def test_where_no_token_was_compared_there_is_no_parity(gauges):
    metrics, name = RunMetrics("mine"), ("cardinal_parity", ("mine",))
    metrics.record("ppo", {"parity_mean_abs": math.nan, "parity_tokens": 0})
    assert gauges == {}
    metrics.record("ppo", {"parity_mean_abs": 2e-6, "parity_tokens": 9.0})
    assert gauges == {name: 2e-6}
    metrics.record("ppo", {"parity_mean_abs": math.nan, "parity_tokens": 0.0})
    assert math.isnan(gauges[name])


def test_how_far_policies_have_parted_is_exported_whatever_weighs_it(gauges):
    """Without a correction all factors are 1: their own sample size says nothing."""
    RunMetrics("mine").record("ppo", {"correction_ess": 1.0, "correction_overlap": 0.3})
    assert gauges == {("cardinal_correction_overlap", ("mine",)): 0.3}


def test_a_name_that_is_no_utf8_is_written_as_python_writes_it(gauges):
    RunMetrics("r\udcff").record("ppo", {"update": 1})
    assert gauges == {("cardinal_ppo_update", ("r\\udcff",)): 1.0}


def test_records_of_other_kinds_are_not_exported(gauges):
    RunMetrics("mine").record("placement", {"update": 1, "seconds": 2.0})
    assert gauges == {}


def test_the_dashboard_is_drawn_by_its_script():
    assert json.loads(DASHBOARD.read_text()) == dashboard()


def test_the_dashboard_asks_for_what_is_exported_by_its_exported_name():
    text = DASHBOARD.read_text()
    queried = {
        name
        for panel in json.loads(text)["panels"]
        for target in panel["targets"]
        for name in re.findall(r"[a-z_]+(?=\{)", target["expr"])
    }
    assert queried == {f"ray_{name}" for name in METRICS}
    named = set(re.findall(r"\bray_[a-z_]+", text))
    assert named == queried
    for panel in json.loads(text)["panels"]:
        for target in panel["targets"]:
            name = re.match(r"ray_(\w+)\{", target["expr"])[1]
            tags = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            assert tags == [t for t in ("run", METRICS[name].tag) if t]


def test_the_page_lists_what_is_exported():
    rows = re.findall(r"^\| `ray_(\w+)` \| (\S+) \| (.*) \|$", PAGE.read_text(), re.M)
    assert rows == [(m.name, m.tag or "–", m.meaning) for m in METRICS.values()]


def test_no_panel_lies_on_another():
    taken = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.slow
def test_ray_exports_every_metric_by_the_name_that_the_dashboard_asks_for():
    with local_ray():

        @ray.remote(num_cpus=0)
        class Exporter:
            def __init__(self):
                self.metrics = RunMetrics("mine")
                for metric in METRICS.values():
                    self.metrics.set_all(metric, {"a": 0.5})

            def ready(self):
                return QUEUES.name

        exporter = Exporter.remote()
        ray.get(exporter.ready.remote())
        port = ray.nodes()[0]["MetricsExportPort"]
        wanted = {f"ray_{name}" for name in METRICS}
        found, deadline = set(), time.monotonic() + 120
        while found < wanted and time.monotonic() < deadline:
            time.sleep(1)
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()
            except OSError:  # Ray's agent has not started yet
                continue
            found = set(re.findall(r'^(ray_cardinal_\w+)\{.*run="mine"', page.decode(), re.M))
        assert found == wanted
