"""The command on many runs at once: study."""

from __future__ import annotations

import argparse

from cluster.commands.command import Commands, argument
from cluster.commands.shared import require_at_least
from cluster.run.stop_signals import StopSignals

COMMANDS = Commands()


@COMMANDS.add(
    "study",
    argument("study", help="a YAML file, or the name of one in configs/studies/"),
    argument("--parallel", type=int, default=1, help="runs at once"),
    argument("--check", action="store_true", help="show the arms; nothing is started"),
)
def study_command(options: argparse.Namespace) -> int:
    """Train, evaluate and report on the arms of a study; what is finished is not done again."""
    from cluster.study.run import check_study, refuse_study, study
    from configs.study import load_study

    require_at_least(1, "--parallel", options.parallel)
    plan = load_study(options.study)
    check_study(plan, options.parallel)
    if options.check:
        return 0
    refuse_study(plan)
    with StopSignals() as signals:
        return study(plan, options.parallel, signals)
