"""How many episodes of a request or of an update may fail before the run ends."""

from __future__ import annotations

from cluster.failures import TooManyFailures, most_failures
from rollout.trajectory_summary import TrajectorySummary


def check_failures(rate: float, failed: list[TrajectorySummary], episodes: int) -> None:
    """Refuse more than `cluster.max_failure_rate` makes likely; and whatever that is, all of them.

    Where all fail, nothing is learned, and it would go on so.

    Raises:
        TooManyFailures: names the first cause.
    """
    if not failed:
        return
    first = f"the first, {failed[0].id}: {failed[0].failure}"
    if len(failed) > most_failures(rate, episodes):
        raise TooManyFailures(
            f"{len(failed)} of {episodes} trajectories failed, more than "
            f"cluster.max_failure_rate = {rate:g} makes likely; {first}"
        )
    if len(failed) >= episodes:
        raise TooManyFailures(f"all of {episodes} trajectories failed; {first}")
