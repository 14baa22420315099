"""The command doctor: what works on this machine, or on a cluster."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys

from cluster.commands.command import Commands, argument
from cluster.environments import load_run
from cluster.exit_codes import ExitCode
from configs.load import ConfigError

COMMANDS = Commands()
DEFAULT = "gp_l_debug"


@COMMANDS.add(
    "doctor",
    argument("config", nargs="?", help="a run whose model, room and placement are checked too"),
    argument("overrides", nargs="*", default=[], metavar="key=value"),
    argument("--address", help="of a live cluster that this machine is a node of: host:port, auto"),
    argument("--json", action="store_true", help="one JSON object instead of lines"),
)
def doctor_command(options: argparse.Namespace) -> int:
    """Say what works on this machine, or on the cluster at --address; 0 if nothing is at fault."""
    name, overrides = options.config, [*options.overrides]
    if name is not None and "=" in name:
        name, overrides = None, [name, *overrides]
    cfg = load_run(name or DEFAULT, overrides)
    if options.address:
        cluster = dataclasses.replace(cfg.cluster, address=options.address)
        cfg = dataclasses.replace(cfg, cluster=cluster)
    if "://" in (cfg.cluster.address or ""):
        raise ConfigError(
            f"cluster.address={cfg.cluster.address}: a job server takes jobs, not members; send it "
            "there: `ray job submit --working-dir . -- python -m cluster.cli doctor`"
        )
    from cluster.doctor.examine import examine
    from cluster.doctor.result import Status

    results, out = [], sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no JSON
        for result in examine(cfg, named=name is not None):
            results.append(result)
            if not options.json:
                print(result.line(), file=out, flush=True)
    faults = [r.check for r in results if r.finding.status is Status.FAULT]
    if options.json:
        print(json.dumps({"faults": faults, "checks": [r.record() for r in results]}, indent=1))
    else:
        print(f"at fault: {', '.join(faults)}" if faults else "nothing is at fault")
    sys.stdout.flush()
    return ExitCode.FAILED if faults else ExitCode.DONE
