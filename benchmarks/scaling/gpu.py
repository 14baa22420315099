"""What the parts of a run cost on GPUs, by published figures and by host costs measured here.

Input: a kind of GPU, a model, a configuration. Output: seconds of each part, formula by formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from benchmarks.model_sizes import SHAPES, size
from benchmarks.scaling.hardware import Hardware
from benchmarks.scaling.parts import HostCosts
from benchmarks.scaling.workload import Workload
from benchmarks.simulation.costs import (
    BufferCosts,
    Costs,
    EngineCosts,
    LearnerCosts,
    PassCosts,
    SyncCosts,
)
from cluster.placement import engine_memory
from cluster.placement.host_memory import offloaded
from cluster.placement.memory import engine_weights
from cluster.placement.rank import GIB, Rank
from configs.model_folder import ModelSize
from configs.schema import RunConfig
from report.flops import Size, forward, training
from rollout.worker import block_age_s

TOKEN_BYTES = 4 + 1 + 4 + 4  # of a trajectory: id, mask, log-probability, policy version
OPTIMIZER_BYTES = 28  # AdamW reads and writes 2 moments and a master weight, and reads a gradient
CHANNELS = ("ipc", "nccl", "nccl over TCP", "object_store")


@dataclass(frozen=True)
class Model:
    """A model of `benchmarks.model_sizes`, by name."""

    name: str

    @cached_property
    def size(self) -> ModelSize:
        """Its parameters."""
        return size(SHAPES[self.name])

    @property
    def parameters(self) -> int:
        """Of all of it."""
        return sum(self.size.parameters.values())

    @property
    def flops(self) -> Size:
        """For `report.flops`; an output layer tied to the embedding multiplies all the same."""
        hidden, _, layers, *_ = SHAPES[self.name]
        matrices = sum(a * b for a, b in self.size.matrices.values())
        return Size(matrices, hidden * self.size.vocabulary, layers, hidden)

    @property
    def layers(self) -> int:
        """Depth."""
        return self.size.layers


@dataclass(frozen=True)
class GpuRun:
    """A run on GPUs, as its costs see it."""

    hardware: Hardware
    model: Model
    cfg: RunConfig
    host: HostCosts
    workload: Workload

    @property
    def weights(self) -> int:
        """Bytes of the policy."""
        return engine_weights(self.cfg, self.model.size)

    @property
    def rank(self) -> Rank:
        """For the memory account."""
        return Rank(self.cfg, self.model.size)

    @property
    def gpus(self) -> int:
        """Of learner and engines."""
        rollout, ranks = self.cfg.rollout, self.cfg.learner.ranks
        shared = self.cfg.cluster.layout == "colocated"
        return ranks if shared else ranks + rollout.workers * rollout.tensor_parallel

    def nodes(self) -> int:
        """That hold engines."""
        engines = self.cfg.rollout.workers * self.cfg.rollout.tensor_parallel
        return -(-engines // int(self.hardware.node("gpus")))

    def engine(self) -> EngineCosts:
        """Decoding reads weights and cache, or computes; prompts compute."""
        gpu, parallel = self.hardware.gpu, self.cfg.rollout.tensor_parallel
        read = parallel * gpu("memory_bandwidth") * self.hardware.engine("decode")
        compute = parallel * gpu("peak") * self.hardware.engine("compute")
        token_s = forward(self.model.flops, 1) / compute
        joined = 2 * self.model.layers * self.hardware.engine("all_reduce") if parallel > 1 else 0.0
        return EngineCosts(
            step_s=self.hardware.engine("step") + joined,
            weights_s=self.weights / read,
            context_s=engine_memory.cached_token(self.rank) / read,
            compute_s=token_s,
            prompt_token_s=token_s,
        )

    @property
    def gathers(self) -> float:
        """What ZeRO-3 moves in a microbatch of a step, in times that weights are gathered.

        Weights forward and backward, gradients once (Rajbhandari et al., 2020, §7), which travel in
        float32 (`communication_data_type` of learner.deepspeed_config).
        """
        return 2 + 4 / self.rank.size

    def gathered_s(self) -> float:
        """Gathering all weights once over the ranks."""
        ranks = self.cfg.learner.ranks
        if ranks == 1:
            return 0.0
        return self.weights * (ranks - 1) / ranks / self.hardware.collective_bandwidth(ranks)

    def learner(self) -> LearnerCosts:
        """FLOPs at the published share of the peak; ZeRO-3 gathers while it computes."""
        gpu, ranks, mean = self.hardware.gpu, self.cfg.learner.ranks, self.workload.tokens()
        speed, gathered = gpu("peak") * gpu("mfu"), self.gathered_s()
        moved = OPTIMIZER_BYTES * self.model.parameters / ranks
        offload = self.cfg.learner.offload
        optimizer = self.hardware.node("host_bandwidth") if offload else gpu("memory_bandwidth")
        sent = mean * TOKEN_BYTES / (self.hardware.node("tcp") * self.hardware.node("links"))
        return LearnerCosts(
            step=PassCosts(
                training(self.model.flops, 1, mean) / speed, 0.0, self.gathers * gathered
            ),
            score=PassCosts(forward(self.model.flops, 1, mean) / speed, 0.0, gathered),
            optimizer_s=moved / optimizer,
            trajectory_s=self.host.trajectory_s,
            own_trajectory_s=self.host.own_trajectory_s,
            fetch_s=self.host.fetch_s + self.hardware.node("gpus") * sent,
        )

    def sync(self, channel: str) -> SyncCosts:
        """A publish over a channel: weights are gathered by the ranks, then sent by rank 0.

        nccl broadcasts from one GPU through its own adapter, or over NVLink within a node; every
        engine pauses meanwhile. Over object_store they are written to shared memory, go to every
        node, and from there to its engines, one after another.
        """
        gpu, node, size = self.hardware.gpu, self.hardware.node, self.weights
        gathered, links = self.gathered_s(), node("links")
        if channel == "ipc":
            own = size / self.cfg.rollout.tensor_parallel / self.hardware.engine("ipc_bandwidth")
            return SyncCosts(gathered + self.hardware.engine("ipc") + own, collective=True)
        if channel == "object_store":
            other = self.nodes() if self.gpus > node("gpus") else 0  # than the learner's own
            return SyncCosts(
                sent_s=gathered + size * self.host.put_byte_s,
                travel_s=size * node("broadcast") * other / node("broadcast_nodes"),
                load_s=size / self.cfg.rollout.tensor_parallel / (gpu("pcie") * links),
            )
        within = gpu("nvlink") if self.gpus <= node("gpus") else gpu("nic")
        link = (node("tcp") if channel == "nccl over TCP" else within) * links
        return SyncCosts(gathered + size / link, collective=True)

    def channel(self) -> str:
        """That cluster.channel=auto takes."""
        return "ipc" if self.cfg.cluster.layout == "colocated" else "nccl"

    def costs(self) -> Costs:
        """Of all parts."""
        buffer = BufferCosts(
            self.host.block_s,
            self.host.buffered_s,
            block_age_s(self.cfg.rollout.workers),
            self.host.call_s,
        )
        per_node = int(self.hardware.node("gpus")) // self.cfg.rollout.tensor_parallel
        return Costs(
            self.workload,
            self.engine(),
            self.learner(),
            self.sync(self.channel()),
            buffer,
            engines_of_a_node=max(1, per_node),
        )

    def cache_tokens(self) -> int:
        """That fit in an engine's cache, beside what else it takes."""
        rollout, parts = self.cfg.rollout, engine_memory.on_gpu(self.rank)
        others = sum(parts.values()) - engine_memory.cache(self.rank)
        left = rollout.gpu_memory * self.hardware.gpu("memory") * GIB - others
        cached = engine_memory.cached_token(self.rank)
        return max(0, int(left * rollout.tensor_parallel) // cached)

    def network(self, update_s: float) -> Mapping[str, float]:
        """Bytes a second by what travels: weights to the engines' GPUs, trajectories, gathers.

        gathers: that each rank receives.
        """
        ppo, learner = self.cfg.ppo, self.cfg.learner
        tokens = self.workload.tokens() * ppo.episodes
        steps = -(-ppo.episodes // ppo.minibatch)
        step = max(1, -(-tokens // (learner.ranks * steps * learner.microbatch_tokens)))
        passes = ppo.epochs * steps * step * self.gathers + steps * step + 1
        engines = self.cfg.rollout.workers * self.cfg.rollout.tensor_parallel
        ranks = learner.ranks
        return {
            "weights": self.weights * engines / update_s,
            "trajectories": tokens * TOKEN_BYTES / update_s,
            "gathers": passes * self.weights * (ranks - 1) / ranks / update_s,
        }

    def host_bytes(self) -> float:
        """Of what learner.offload moves to the hosts, on one node."""
        ranks = min(self.cfg.learner.ranks, int(self.hardware.node("gpus")))
        return ranks * offloaded(self.rank)
