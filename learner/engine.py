"""One rank's DeepSpeed engine: takes optimizer steps on microbatches, publishes and saves weights.

Input: a Hugging Face folder, microbatches, a loss function.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.checkpoint.ds_to_universal import main as to_universal
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from opentelemetry import trace
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from configs.model_folder import write_index
from configs.schema import OptimizerConfig, RunConfig
from learner import batch, distributed, snapshot
from learner.adaptive_rate import rate_factor
from learner.batch import MicroBatch
from learner.checkpoint_layout import CheckpointLayout
from learner.closing import free
from learner.deepspeed_config import deepspeed_config, engine_clips_gradients, zero_stage
from learner.export import save_trunk, share_weights
from learner.forward import Pass, passes, score_all, zero_loss
from learner.gathered_weights import Bucket, GatheredWeights, WeightShapes
from learner.image_inputs import ImageInputs
from learner.isolation import check_packing, check_shared_rows
from learner.lora import add_adapters
from learner.model import VALUE_HEAD_FILE, Forward, ForwardOptions, Scores, load_actor_critic
from learner.optimizer import (
    MakeOptimizer,
    adamw,
    learning_rates,
    parameter_groups,
    set_learning_rates,
)
from learner.resharding import mend
from learner.sequence_parallel import SequenceParallel
from learner.snapshot import HostFiles, OpenFile, Snapshot

# DeepSpeed would compile an op for inference at start-up, which no path of ours uses.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed.utils.logger.setLevel("ERROR")
deepspeed.runtime.bf16_optimizer.see_memory_usage = lambda *_, **__: None  # it prints
warnings.filterwarnings("ignore", message=".*is deprecated.*", module="torch.distributed")
# What states hold besides tensors and plain values; one with anything else is refused.
torch.serialization.add_safe_globals(
    [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
)

Means = dict[str, torch.Tensor]
LossFn = Callable[[Scores, MicroBatch], tuple[torch.Tensor, Means]]
STATE, NO_FOLDER = "state", "/nonexistent"  # a snapshot goes to no disk
EXPORT_BYTES = 2**26  # gathered at once for a model folder, or one tensor
TRACER = trace.get_tracer("cardinal")


class ReferencePolicy:
    """A frozen copy of a policy, for KL penalties; over several ranks it is sharded.

    Args:
        folder: Hugging Face model folder.
        cfg: the run's configuration.
        forbidden: token ids that are never sampled.
    """

    def __init__(self, folder: str | Path, cfg: RunConfig, forbidden: Sequence[int] = ()) -> None:
        distributed.join_process_group()
        config = deepspeed_config(cfg, OptimizerConfig(), stage=3)
        sharded = distributed.world_size() > 1
        partition = functools.partial(_partition, config) if sharded else None
        model = load_actor_critic(Path(folder), cfg, forbidden, None, partition)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._image_inputs = ImageInputs.load(folder, model.trunk)
        self._parallel = SequenceParallel.of(cfg.learner)
        self._forward: Forward = model.to(_device())
        if sharded:
            self._forward, *_ = deepspeed.initialize(
                model=model, config=config, dist_init_required=False
            )

    @torch.no_grad()
    def forward(self, each: Pass, options: ForwardOptions) -> Scores:
        """Scores of one pass; every rank must run equally many."""
        return each.run(self._forward, options)

    def score(
        self, microbatches: list[MicroBatch], options: ForwardOptions | None = None
    ) -> list[Scores]:
        """Scores of each microbatch, on the device; a collective call."""
        policy, images, group = self._forward, self._image_inputs, self._parallel
        return score_all(policy, images, microbatches, options, device=_device(), parallel=group)


class TrainingEngine:
    """A policy in training: one phase, one optimizer, one schedule.

    Args:
        folder: Hugging Face model folder; a value head in it is loaded.
        cfg: the run's configuration (model, learner, seed).
        optimizer: the phase's optimizer.
        steps: optimizer steps of the phase, for the schedule.
        value: whether there is a value head.
        forbidden: token ids that are never sampled (`Renderer.forbidden`); their logits are
            biased as in the rollout engine.
        make_optimizer: builds the optimizer; tests pass SGD.
        frozen_steps: of the steps, the first ones, of a frozen trunk: its schedule begins after.

    Attributes:
        counters: int by name, saved and loaded with the state; "steps" is the schedule's
            position, callers add their own.
        device: where the microbatches are moved.
        packing: how sequences share rows, one of PACKINGS; packing_check: why this one.

    Raises:
        ValueError: the folder holds no model that can be trained as configured.
    """

    def __init__(
        self,
        folder: str | Path,
        cfg: RunConfig,
        optimizer: OptimizerConfig,
        steps: int,
        value: bool,
        *,
        forbidden: Sequence[int] = (),
        make_optimizer: MakeOptimizer = adamw,
        frozen_steps: int = 0,
    ) -> None:
        distributed.join_process_group()
        self.counters: dict[str, int] = {"steps": 0}
        self.device = _device()
        self._cfg, self._optimizer_cfg = cfg, optimizer
        self._schedule = optimizer, cfg.ppo, steps, frozen_steps
        self._stage, self._folder = zero_stage(cfg), Path(folder)
        config = deepspeed_config(cfg, optimizer, self._stage)
        partition = functools.partial(_partition, config) if self._stage == 3 else None
        seed = cfg.seed if value else None
        self.model = load_actor_critic(self._folder, cfg, forbidden, seed, partition)
        trunk = self.model.to(self.device).trunk
        self._image_inputs = ImageInputs.load(self._folder, trunk)
        self._parallel = SequenceParallel.of(cfg.learner)
        layout = CheckpointLayout(trunk)
        add_adapters(trunk, cfg.model, cfg.seed)
        self._weights = GatheredWeights(trunk, self._gather, layout)
        self._clips_gradients = engine_clips_gradients(self._stage)
        self._deepspeed, self._optimizer, _, _ = deepspeed.initialize(
            model=self.model,
            optimizer=make_optimizer(parameter_groups(self.model, optimizer), optimizer),
            config=config,
            dist_init_required=False,
        )
        if self._stage == 0 and distributed.world_size() == 1:
            self._deepspeed.enable_backward_allreduce = False  # it would copy gradients and back
        if self._parallel is not None:
            alone = functools.partial(score_all, self._deepspeed, None, device=self.device)
            check_shared_rows(self.score, alone, trunk.config, cfg, forbidden)
        self.packing_check = check_packing(self.score, trunk.config, cfg, forbidden)
        self.packing = self.packing_check.packing

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the folder where the phase began."""
        return AutoTokenizer.from_pretrained(
            self._folder, trust_remote_code=False, mistral_format=False
        )

    def microbatches(self, sequences: list[batch.Sequence]) -> list[MicroBatch]:
        """Pack sequences within the learner's budgets.

        Raises:
            ValueError: a sequence's pictures and their tokens do not agree.
        """
        budget = self._cfg.learner
        for sequence in sequences:
            if self._image_inputs is not None:
                self._image_inputs.check_alignment(sequence)
            elif sequence.pictures:
                raise ValueError(f"{self._folder} is a model of text alone; it sees no pictures")
        return batch.microbatches(
            sequences, budget.microbatch_tokens, self.packing, budget.microbatch_images
        )

    @TRACER.start_as_current_span("step")
    def step(
        self,
        microbatches: list[MicroBatch],
        loss_fn: LossFn,
        options: ForwardOptions | None = None,
        reference: ReferencePolicy | None = None,
    ) -> dict[str, float]:
        """One optimizer step over all ranks' microbatches; a collective call.

        Args:
            microbatches: this rank's, possibly none.
            loss_fn: from a microbatch's Scores to its share of the GLOBAL loss (a sum already
                divided by the global count) and to named shares of other global means.
            options: of the forward pass.
            reference: when given, each microbatch's Scores carry its distribution.

        Returns:
            loss, lr (the trunk's), grad_norm (before clipping), the named means; of all ranks.

        Raises:
            FloatingPointError: the gradient is not finite; the weights are as they were.
        """
        options = options or ForwardOptions()
        at = self.counters["steps"], rate_factor(self.counters), options.freeze_trunk
        rate, head = learning_rates(*self._schedule, *at)
        set_learning_rates(self._optimizer.param_groups, rate, head)
        shares = self._backward(microbatches, loss_fn, options, reference)
        norm = self._update_weights()
        self.counters["steps"] += 1
        return {**distributed.all_sum_named(shares), "lr": rate, "grad_norm": norm}

    def _backward(
        self,
        microbatches: list[MicroBatch],
        loss_fn: LossFn,
        options: ForwardOptions,
        reference: ReferencePolicy | None,
    ) -> list[Means]:
        """Accumulate the gradients; each microbatch's shares of the loss and of other means."""
        shares: list[Means] = []
        for each in passes(microbatches, self._image_inputs, self.device, self._parallel):
            scores = each.run(self._deepspeed, options)
            if reference is not None:
                distribution = reference.forward(each, options).distribution
                scores = scores._replace(reference_distribution=distribution)
            loss = zero_loss(scores)
            if each.microbatch is not None:
                share, means = loss_fn(scores, each.microbatch)
                shares.append({"loss": share.detach(), **means})
                loss = loss + share
            self._deepspeed.set_gradient_accumulation_boundary(each.last)
            # DeepSpeed averages over ranks; the shares of the loss add up.
            self._deepspeed.backward(loss * distributed.world_size())
        return shares

    def _update_weights(self) -> float:
        """Clip the gradients and update the weights; the gradients' norm before clipping.

        DeepSpeed clips, except at stage 0, where it would not return the norm.
        """
        if self._clips_gradients:
            limit = self._optimizer_cfg.max_grad_norm or math.inf
            norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
            if math.isfinite(norm):
                self._deepspeed.step()
        else:  # leaves the weights as they are when the norm is not finite
            for used in getattr(self._optimizer, "fp32_groups_has_gradients", ()):
                used[:] = [True] * len(used)  # by any rank, or each has the norm of its own
            self._deepspeed.step()
            norm = float(self._deepspeed.get_global_grad_norm() or 0.0)
        if not math.isfinite(norm):
            step = self.counters["steps"]
            raise FloatingPointError(f"gradient norm of step {step} is {norm}; it must be finite")
        return norm

    def skip_steps(self, steps: int) -> None:
        """Advance the schedule by steps that are not taken."""
        self.counters["steps"] += steps

    def score(
        self, microbatches: list[MicroBatch], options: ForwardOptions | None = None
    ) -> list[Scores]:
        """Scores of each microbatch without gradients, on the device; a collective call."""
        policy, images, group = self._deepspeed, self._image_inputs, self._parallel
        return score_all(policy, images, microbatches, options, device=self.device, parallel=group)

    def weight_shapes(self) -> WeightShapes:
        """Name, dtype and full shape of what `weights` yields, in its order; not collective."""
        return self._weights.shapes()

    def weights(self, bucket_bytes: int, **which: bool) -> Iterator[Bucket]:
        """The policy's weights in buckets of at most bucket_bytes; a collective call.

        On rank 0, or with `everywhere` on every rank: see GatheredWeights.buckets. Every rank
        must consume it to the end.
        """
        return self._weights.buckets(bucket_bytes, **which)

    def adapters(self, bucket_bytes: int) -> Iterator[Bucket]:
        """What `weights` leaves out unmerged; see GatheredWeights.adapter_buckets; collective."""
        return self._weights.adapter_buckets(bucket_bytes)

    @property
    def perturbed(self) -> tuple[str, int] | None:
        """Kind and seed of `perturb`, until `restore`."""
        return self._weights.perturbed

    def perturb(self, kind: str, seed: int) -> bool:
        """Change the weights of one kind until `restore`; see GatheredWeights.perturb."""
        return self._weights.perturb(kind, seed)

    def restore(self) -> None:
        """Put back exactly what `perturb` changed."""
        self._weights.restore()

    def export(self, folder: str | Path, stop_ids: Sequence[int] = ()) -> None:
        """Write a Hugging Face folder that plain transformers and vLLM load; a collective call.

        A value head gets a file of its own. The stop ids are as of `save_trunk`.
        """
        target, value = Path(folder), self.model.value_head
        head = self._full_parameters(value) if value is not None else {}
        weights = (tensor for bucket in self.weights(EXPORT_BYTES) for tensor in bucket)
        if distributed.rank() == 0:
            save_trunk(self.model.trunk, self._folder, target, weights, stop_ids)
            if head:
                save_file(head, target / VALUE_HEAD_FILE)
                write_index(target)
            share_weights(target)
        else:
            deque(weights, maxlen=0)  # the gathering is collective
        distributed.barrier()  # no rank reads the folder before it is complete

    def snapshot(self) -> Snapshot:
        """This rank's resumable state, copied to the host: files to write; a collective call.

        Weights, optimizer, the schedule's position, counters, and the random generators.
        """
        files = self._deepspeed.checkpoint_engine = HostFiles(NO_FOLDER)
        self._deepspeed._copy_recovery_script = lambda folder: None  # it would write files there
        self._deepspeed.save_checkpoint(
            NO_FOLDER,
            STATE,
            {"counters": dict(self.counters)},
            save_latest=False,
            # Weights that adapters leave frozen are in the folder where the phase began.
            exclude_frozen_parameters=bool(self._weights.adapters),
        )
        return files.saved | snapshot.random_files()

    def load(self, names: Sequence[str], open_file: OpenFile) -> None:
        """Continue from the files of all ranks' snapshots, of any number of ranks; collective.

        Args:
            names: of the files.
            open_file: opens one of them.
        """
        saved = snapshot.ranks_of(names)
        resharded = self._stage > 0 and saved not in (0, distributed.world_size())
        opened = snapshot.saved_files(names, open_file)
        if resharded:
            own = self.model.state_dict().keys()
            opened = snapshot.resharded_files(names, open_file, STATE, own, to_universal)
        with opened as (folder, self._deepspeed.checkpoint_engine), redirect_stdout(None):
            self._deepspeed._config.load_universal_checkpoint = resharded
            groups = [dict(group) for group in self._optimizer.param_groups]
            _, state = self._deepspeed.load_checkpoint(
                folder, STATE, load_module_strict=not self._weights.adapters
            )
            if resharded:
                mend(self._optimizer, groups, Path(folder, STATE), self._stage)
        self.counters = dict(state["counters"])
        snapshot.load_random_state(names, open_file)

    def close(self, reference: ReferencePolicy | None = None) -> None:
        """Free all that the engine and the phase's reference hold; call before the next engine."""
        free(self, reference)

    def _full_parameters(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        """A module's full parameters on the CPU, on rank 0; empty elsewhere; collective."""
        state: dict[str, torch.Tensor] = {}
        for name, parameter in module.named_parameters():
            with self._gather([parameter]):
                if distributed.rank() == 0:
                    state[name] = parameter.detach().cpu().clone()
        return state

    def _gather(self, parameters: list[torch.nn.Parameter]) -> AbstractContextManager[object]:
        """Full parameters inside the block."""
        if self._stage < 3:
            return nullcontext()
        return deepspeed.zero.GatheredParameters(parameters)


def _partition(config: dict[str, object], parameters: list[torch.nn.Parameter]) -> None:
    """Have DeepSpeed leave each rank its share of rank 0's parameters."""
    deepspeed.zero.Init(module=torch.nn.ParameterList(parameters), config_dict_or_path=config)


def _device() -> torch.device:
    return torch.device(get_accelerator().current_device_name())
