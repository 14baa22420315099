"""`cardinal study`: every arm and seed of a study as a normal run, then one table of results.

Comes in: a StudyConfig; goes out: run folders, study.yaml, study.json, results.csv, report.html.
What is finished is not done again, what was interrupted goes on.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml

from cluster.study.slots import BUSY, FINISHED, Slots, alone
from configs.load import ConfigError
from configs.schema import RunConfig
from configs.study import StudyConfig
from report.study import compute
from report.summary import ended

COLUMNS = ("arm", "source", "seed", "stage", "step", "update", "variant", "success", "n", "low",
           "high", "first_try", *compute.columns(compute.Spent(), compute.Spent()))  # fmt: skip


def check_study(study: StudyConfig, parallel: int = 1) -> None:
    """Check and print every arm; models are checked by the runs, once they are there.

    parallel: runs at once; on one machine with GPUs they need a Ray that all of them join.

    Raises:
        ConfigError: one sentence with the arm, the key, the value and the rule.
    """
    from cluster.environments import environments
    from cluster.placement.nodes import address_of, local_node
    from envs.registry import check_settings

    address = address_of(study.run(next(iter(study.arms)), study.seeds[0]).cluster.address)
    if parallel > 1 and not address and local_node(1.0, 0).total["GPU"]:
        raise ConfigError(
            f"--parallel {parallel}: runs on the GPUs of one machine must join one Ray, or they "
            "take each other's; `ray start --head`, then cluster.address=auto in the study's set"
        )
    for arm in study.arms:
        for name, env in environments(study.run(arm, study.seeds[0])).items():
            try:
                check_settings(*env, where=f"arms.{arm}: {name}")
            except ValueError as error:
                raise ConfigError(str(error)) from error
        found = study.arms[arm]
        begin = f"from {found.source or 'the model of the base'}"
        steps = [f"steps: as many as {found.match}'s FLOPs buy"] if found.match else []
        print(f"{arm}: {begin}{f' at {found.at}' if found.at else ''}", *found.overrides, *steps)


def study(plan: StudyConfig, parallel: int) -> int:
    """Run a study's arms, `parallel` at once; returns 0, or 1 where an arm failed.

    Raises:
        ConfigError: its folder holds another study, or another process runs it.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with alone(plan.folder), Slots(parallel, plan.folder) as slots:
        code = run_study(plan, slots)
    from report.study.page import write_study_report  # matplotlib, which no check needs

    print(write_study_report(plan.folder))
    return code


def run_study(study: StudyConfig, slots: Slots) -> int:
    """Run what is not finished, seed by seed, each after its source; the code of `study`."""
    _claim(study)
    told: dict[str, str] = {}

    def tell(name: str, status: str) -> None:
        told[name] = status
        print(f"{name}: {status}", flush=True)
        write_results(study, told)

    begun: set[str] = set()
    crowded = False  # a cluster that refused a run may take it when another has ended
    runs = {f"{arm}/seed{seed}": (arm, seed) for seed in study.seeds for arm in study.arms}
    while len(told) < len(runs):
        for name in [run for run in runs if run not in told and run not in begun]:
            arm, seed = runs[name]
            before = {need: told.get(f"{need}/seed{seed}") for need in study.arms[arm].needs}
            broken = next((n for n, status in before.items() if status not in (None, FINISHED)), "")
            folder = study.folder / arm / f"seed{seed}"
            if broken:
                why = str(before[broken]).split(":")[0]
                tell(name, f"skipped: {broken}/seed{seed} {why}")
            elif None in before.values():
                continue
            elif ended(folder)["status"] == "finished":
                tell(name, FINISHED)
            elif slots.free and not crowded:
                try:
                    cfg = _configuration(study, arm, seed)
                except ConfigError as error:
                    tell(name, f"failed: {error}")
                    continue
                print(f"{name}: begins", flush=True)
                slots.begin(name, cfg, (folder / "config.yaml").is_file())
                begun.add(name)
        if begun:
            name, status = slots.wait()
            begun.remove(name)
            crowded = status.startswith(BUSY) and bool(begun)
            if not crowded:
                tell(name, f"failed: {status}" if status.startswith(BUSY) else status)
    return int(any(status != FINISHED for status in told.values()))


def _configuration(study: StudyConfig, arm: str, seed: int) -> RunConfig:
    """Of a run whose needs have finished."""
    matched = study.arms[arm].match is not None
    return study.run(arm, seed, compute.matched_steps(study, arm, seed) if matched else 1)


def _claim(study: StudyConfig) -> None:
    """Write study.yaml, the resolved study, or see that it is the one that was begun."""
    resolved: dict[str, Any] = {
        "base": study.base, "seeds": list(study.seeds), "set": list(study.overrides),
        "arms": {a.name: {"from": a.source, "at": a.at, "set": list(a.overrides)}
                 | ({"match": a.match} if a.match else {}) for a in study.arms.values()},
    }  # fmt: skip
    file = study.folder / "study.yaml"
    if file.is_file():
        begun = yaml.safe_load(file.read_text())
        for name, arm in begun["arms"].items():
            if resolved["arms"].get(name, arm) != arm:
                raise ConfigError(f"arms.{name}: differs from the one begun in {file}")
        for key in ("base", "set"):
            if begun[key] != resolved[key]:
                raise ConfigError(f"{key}: differs from that of the study begun in {file}")
    study.folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(resolved, sort_keys=False))


def write_results(study: StudyConfig, told: dict[str, str]) -> None:
    """study.json (how each run ended) and results.csv (a row an evaluation of finished runs)."""
    sources = {arm: (found.source, found.at) for arm, found in study.arms.items()}
    rows = [
        {"arm": arm, "source": found.source, "seed": seed, **row}
        for arm, found in study.arms.items()
        for seed in study.seeds
        if ended(study.folder / arm / f"seed{seed}")["status"] == "finished"
        for row in _rows(study.folder, sources, arm, seed)
    ]
    (study.folder / "study.json").write_text(json.dumps({"name": study.name, "runs": told}))
    with (study.folder / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _rows(study: Path, sources: compute.Sources, arm: str, seed: int) -> list[dict[str, Any]]:
    """A row an evaluation of a run, with what was spent until then."""
    earlier = compute.before(study, sources, arm, seed)
    return [
        {k: record[k] for k in COLUMNS if k in record}
        | dict(zip(("low", "high"), record["interval"], strict=True))
        | compute.columns(spent, earlier)
        for record, spent in compute.along(study / arm / f"seed{seed}")
        if record["kind"] == "eval"
    ]
