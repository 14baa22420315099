"""What every weight channel is to its caller, and the sequence that each of them keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from learner.engine import TrainingEngine


@dataclass(frozen=True)
class PublishResult:
    """One publish.

    seconds: until the last engine had the weights.
    bytes: of the payload.
    buckets: objects that were sent over object_store; 1 over nccl and ipc, whatever vLLM packed.
    sent_seconds: for which the learner's weights had to stay as they were.
    paused_seconds: of each engine, None of one that was lost; empty over nccl and ipc, where all
        pause for all of it.
    """

    version: int
    seconds: float
    bytes: int
    buckets: int
    sent_seconds: float
    paused_seconds: list[float | None] = field(default_factory=list)


Publishing = Callable[[], PublishResult]  # waits until all engines have the weights


class WeightChannel(Protocol):
    """One way for weights to reach the rollout engines.

    A publish is the same sequence on every channel. The learner's ranks gather the weights
    together, bucket after bucket; rank 0 alone calls the engines, and each engine goes through
    three steps (on an actor: `start_weight_update`, `update_weights`, `finish_weight_update`):

    1. begin: sequences in flight pause, caches of the old weights are dropped, and every layer
       is prepared to be loaded. An engine that sleeps wakes with memory for its weights only.
    2. load: object_store reads buckets from shared memory, one after another. nccl gets one
       message that describes all tensors, ipc one per packed chunk; the tensors themselves
       arrive from GPU to GPU.
    3. finish: the loaded layers are put into use, the engine's version becomes that of the
       publish, and sequences continue; each further token is marked with the new version.

    Over object_store each engine takes the steps at its own pace while the learner goes on, has
    cluster.sync_deadline_s for them, and is replaced where it misses it. Over nccl and ipc all
    engines take each step together with the learner, that deadline holds for the whole, and an
    engine that misses it ends the run. The publish is over when all have finished.

    A channel that engines have to join (nccl, ipc) has them do so at its first publish, within
    cluster.start_deadline_s.
    """

    def publish(self, version: int, engine: TrainingEngine) -> Publishing | None:
        """Send all weights of the learner's engine to all workers as `version`.

        Every rank calls it; only rank 0 gets an answer, with which it waits for the workers.

        Raises:
            RunFailure: a worker was lost or a deadline passed; names it.
        """
