"""`cardinal study`: every arm and seed of a study as a normal run, then the study's report.

Input: a StudyConfig. Output: run folders, study.yaml, study.json and results.csv, then the report.
What is finished is not done again, what was interrupted continues.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.failures import PlacementError
from cluster.preflight.early import refuse_arm
from cluster.run.stop_signals import StopSignals
from cluster.study.slots import BUSY, FINISHED, Slots, alone
from configs.disk import replace_file
from configs.load import ConfigError
from configs.study import StudyConfig
from configs.text import one_line
from report.study.compute import matched_steps
from report.study.results import run_folder
from report.study.results_table import write_results
from report.summary import ended

DAMAGED = "it must be as `cardinal study` wrote it; removed, it is written anew"


def check_study(study: StudyConfig, parallel: int = 1) -> None:
    """Check and print every arm; models are checked by the runs, once they are there.

    parallel: runs at once; on one machine with GPUs they need a Ray that all of them join.

    Raises:
        ConfigError: one sentence with the arm, the key, the value and the rule.
    """
    from cluster.environments import environments, settings_key
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
                check_settings(*env, where=f"arms.{arm}: {settings_key(name)}")
            except ValueError as error:
                raise ConfigError(str(error)) from error
        found = study.arms[arm]
        begin = f"from {found.source or 'the model of the base'}"
        buy = f"{found.matched}: as many as {found.match}'s FLOPs buy"
        steps = [buy] if found.match else []
        print(f"{arm}: {begin}{f' at {found.at}' if found.at else ''}", *found.overrides, *steps)


def refuse_study(study: StudyConfig) -> None:
    """Refuse a study with an arm whose next run cannot begin on this machine.

    Raises:
        ConfigError, PlacementError: as `refuse_arm`, with the arm's name.
    """
    for arm in study.arms:
        folders = {seed: run_folder(study.folder, arm, seed) for seed in study.seeds}
        seed = next((seed for seed, folder in folders.items() if not folder.exists()), None)
        if seed is None:
            continue
        try:
            refuse_arm(study.run(arm, seed), model_made=study.arms[arm].source is not None)
        except (ConfigError, PlacementError) as error:
            raise type(error)(f"arms.{arm}: {error}") from error


def study(plan: StudyConfig, parallel: int, signals: StopSignals) -> int:
    """Run a study's arms, `parallel` at once; returns 0, or 1 where an arm failed.

    signals: what ends it.

    Raises:
        ConfigError: its folder holds another study, or another process runs it.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with alone(plan.folder), Slots(parallel, plan.folder, signals) as slots:
        code = run_study(plan, slots)
    from report.study.page import write_study_report  # matplotlib, which no check needs

    print(write_study_report(plan.folder))
    return code


def run_study(study: StudyConfig, slots: Slots) -> int:
    """Run what is not finished, each arm after its source; the code of `study`.

    study.json and results.csv are written again whenever a run has ended.
    """
    _claim(study)
    statuses: dict[str, str] = {}
    for name, status in schedule(study, slots):
        statuses[name] = status
        print(f"{name}: {status}", flush=True)
        write_results(study, statuses)
    return int(any(status != FINISHED for status in statuses.values()))


def schedule(study: StudyConfig, slots: Slots) -> Iterator[tuple[str, str]]:
    """Every run's name and status, FINISHED or why not, as soon as it is known; seed by seed.

    A run begins when the runs that it needs have finished and a slot is free; it is skipped where
    one of them ended otherwise. One that a busy cluster refused waits for another to end.
    """
    runs = {f"{arm}/seed{seed}": (arm, seed) for seed in study.seeds for arm in study.arms}
    statuses: dict[str, str] = {}
    running: set[str] = set()
    crowded = False
    while len(statuses) < len(runs):
        for name, (arm, seed) in runs.items():
            if name in statuses or name in running:
                continue
            status = _without_a_slot(study, arm, seed, statuses)
            if status is None and slots.free and not crowded:
                try:
                    _begin(study, arm, seed, slots)
                    running.add(name)
                except ConfigError as error:
                    status = f"failed: {error}"
            if status:
                statuses[name] = status
                yield name, status
        if running:
            name, status = slots.wait()
            running.remove(name)
            if _finished(study, *runs[name]):  # whatever came over its slot after that
                status = FINISHED
            crowded = status.startswith(BUSY) and bool(running)
            if not crowded:
                statuses[name] = f"failed: {status}" if status.startswith(BUSY) else status
                yield name, statuses[name]


def _without_a_slot(
    study: StudyConfig, arm: str, seed: int, statuses: Mapping[str, str]
) -> str | None:
    """The status of a run that need not begin; "" while it must wait; None when it can begin."""
    needs = {need: statuses.get(f"{need}/seed{seed}") for need in study.arms[arm].needs}
    for need, status in needs.items():
        if status not in (None, FINISHED):
            return f"skipped: {need}/seed{seed} {status.partition(':')[0]}"
    if None in needs.values():
        return ""
    return FINISHED if _finished(study, arm, seed) else None


def _finished(study: StudyConfig, arm: str, seed: int) -> bool:
    return ended(run_folder(study.folder, arm, seed))["status"] == FINISHED


def _begin(study: StudyConfig, arm: str, seed: int, slots: Slots) -> None:
    """Give a run to a slot; one that was begun before continues.

    Raises:
        ConfigError: its SFT steps or updates cannot be chosen (`match`).
    """
    steps = matched_steps(study, arm, seed) if study.arms[arm].match is not None else 1
    cfg, name = study.run(arm, seed, steps), f"{arm}/seed{seed}"
    print(f"{name}: begins", flush=True)
    slots.begin(name, cfg, (run_folder(study.folder, arm, seed) / "config.yaml").is_file())


def _claim(study: StudyConfig) -> None:
    """Write study.yaml, the resolved study, or see that it is the one that was begun."""
    arms = {
        arm.name: {"from": arm.source, "at": arm.at, "set": list(arm.overrides)}
        | ({"match": arm.match} if arm.match else {})
        for arm in study.arms.values()
    }
    common = {
        "base": study.base,
        "seeds": list(study.seeds),
        "set": list(study.overrides),
        "primary": [comparison.plain() for comparison in study.primary],
    }
    file = study.folder / "study.yaml"
    if file.is_file():
        begun = _begun(file)
        for name, arm in begun["arms"].items():
            if arms.get(name, arm) != arm:
                raise ConfigError(f"arms.{name}: differs from the one begun in {file}")
        # A folder of before there were primary comparisons names none.
        for key in ("base", "set", "primary"):
            if begun.get(key, common[key]) != common[key]:
                raise ConfigError(f"{key}: differs from that of the study begun in {file}")
    study.folder.mkdir(parents=True, exist_ok=True)
    replace_file(file, yaml.safe_dump(common | {"arms": arms}, sort_keys=False))


def _begun(file: Path) -> dict[str, Any]:
    """What a study.yaml says; ConfigError where it was cut off, or is another file."""
    try:
        begun = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # bytes and dates that are none
        raise ConfigError(f"{file}: {one_line(error)}; {DAMAGED}") from error
    if not isinstance(begun, dict) or not isinstance(begun.get("arms"), dict):
        raise ConfigError(f"{file}: has no arms; {DAMAGED}")
    return begun
