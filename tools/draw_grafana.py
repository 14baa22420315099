"""Draws docs/grafana.json: a Grafana dashboard of what `cluster/run/prometheus.py` exports.

Run `python -m tools.draw_grafana > docs/grafana.json`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from cluster.run.prometheus import METRICS, QUEUES

PREFIX = "ray_"  # Ray's, before the name of every metric
ROW, WIDTH = 8, 12  # of a panel, in Grafana's grid of 24 columns
PANELS = (  # title, unit as Grafana names it, whether values are stacked, metrics
    (
        "Idle: learner and each engine",
        "percentunit",
        False,
        ("cardinal_learner_idle_ratio", "cardinal_engine_idle_ratio"),
    ),
    (
        "Tokens per second by part",
        "short",
        False,
        tuple(f"cardinal_{part}_tokens_per_second" for part in ("rollout", "learner", "sft")),
    ),
    ("Episodes by where they are", "short", False, ("cardinal_episodes",)),
    ("Trajectories of an update by staleness", "short", True, ("cardinal_trajectories",)),
    ("Seconds of rank 0 by phase", "s", True, ("cardinal_phase_seconds",)),
    (
        "Publish, and pause of each engine",
        "s",
        False,
        ("cardinal_sync_seconds", "cardinal_paused_seconds", "cardinal_update_seconds"),
    ),
    (
        "Success of training and of evaluations",
        "percentunit",
        False,
        ("cardinal_success", "cardinal_eval_success"),
    ),
    ("Reward", "short", False, ("cardinal_reward",)),
    (
        "Policies: overlap, KL, engine against learner",
        "short",
        False,
        ("cardinal_correction_overlap", "cardinal_kl", "cardinal_parity"),
    ),
    ("Loss of SFT, entropy", "short", False, ("cardinal_sft_loss", "cardinal_entropy")),
    (
        "Progress, and episodes that failed",
        "short",
        False,
        ("cardinal_sft_step", "cardinal_ppo_update", "cardinal_failed_episodes"),
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it; its variables choose the Prometheus and the run."""
    runs = f"label_values({PREFIX}{QUEUES.name}, run)"
    return {
        "title": "Cardinal",
        "uid": "cardinal",
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource"}
                | {"query": "prometheus"},
                {"name": "run", "label": "Run", "type": "query", "datasource": _datasource()}
                | {"query": {"query": runs, "refId": "runs"}, "definition": runs, "refresh": 2}
                | {"multi": True, "includeAll": True, "allValue": ".*"},
            ]
        },
        "panels": [_panel(number, *panel) for number, panel in enumerate(PANELS)],
    }


def _datasource() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def _panel(
    number: int, title: str, unit: str, stacked: bool, names: tuple[str, ...]
) -> dict[str, Any]:
    metrics = [METRICS[name] for name in names]
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 30 if stacked else 0}
    custom |= {"stacking": {"mode": "normal" if stacked else "none"}}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "description": "\n".join(f"{metric.name}: {metric.meaning}." for metric in metrics),
        "datasource": _datasource(),
        "gridPos": {
            "x": number % 2 * WIDTH,
            "y": number // 2 * ROW,
            "w": WIDTH,
            "h": ROW,
        },
        "fieldConfig": {"defaults": {"unit": unit, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "table", "placement": "right", "calcs": ["last"]}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _datasource(),
                "expr": f'{PREFIX}{metric.name}{{run=~"$run"}}',
                "legendFormat": _legend(metric.name, metric.tag),
            }
            for index, metric in enumerate(metrics)
        ],
    }


def _legend(name: str, tag: str) -> str:
    words = name.removeprefix("cardinal_").removesuffix("_ratio").replace("_", " ")
    return f"{{{{run}}}} {words}" + (f" {{{{{tag}}}}}" if tag else "")


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=1)
    print()
