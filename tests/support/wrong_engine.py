"""`cardinal`, but once a file exists rollout worker 1 keeps the weights that it has.

It says of each update that it has it, as an engine would that a fault has left behind. Usage:
`python -m tests.support.wrong_engine FILE train …`.
"""

from __future__ import annotations

import os
import sys

from cluster.actors import RolloutActor
from cluster.cli import program

WRONG = 1


def keep_old_weights(file):
    """Change the class that the driver sends to Ray."""
    actor = RolloutActor.__ray_metadata__.modified_class
    right = actor.receive

    async def receive(self, version, refs):
        if self._index == WRONG and os.path.exists(file):
            refs = self._kept
        self._kept = refs
        return await right(self, version, refs)

    actor.receive = receive


if __name__ == "__main__":
    keep_old_weights(sys.argv.pop(1))
    program()
