"""One rank's DeepSpeed engine: microbatches and a loss go in, optimizer steps come out.

The only file that knows DeepSpeed. It begins a phase from a Hugging Face folder and ends it in
one; what a step learns from is its caller's business.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from configs.model_folder import write_index
from configs.schema import OptimizerConfig, RunConfig
from learner import batch, distributed
from learner.batch import MicroBatch
from learner.deepspeed_config import clips_itself, deepspeed_config
from learner.gathered_weights import Bucket, GatheredWeights
from learner.image_inputs import ImageInputs, pad_to_lockstep
from learner.lora import add_adapters
from learner.model import (
    FROZEN,
    VALUE_HEAD_FILE,
    ActorCritic,
    ForwardOptions,
    Scores,
    checkpoint_names,
    kind_of,
    load_trunk,
    load_value_head,
)
from learner.optimizer import MakeOptimizer, adamw, learning_rate, parameter_groups

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.accelerator import get_accelerator
from safetensors.torch import save_file
from transformers import AutoTokenizer
from transformers.utils import is_flash_attn_2_available

# DeepSpeed would compile an op for inference at start-up, which no path of ours uses.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed.utils.logger.setLevel("ERROR")
warnings.filterwarnings("ignore", message=".*is deprecated.*", module="torch.distributed")

Stats = dict[str, torch.Tensor]
LossFn = Callable[[Scores, MicroBatch], tuple[torch.Tensor, Stats]]
STATE = "state"
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".index.json", ".gguf")


class Reference:
    """A frozen copy of a policy that only scores; over several ranks it is held sharded.

    Args:
        folder: Hugging Face model folder.
        cfg: the run's configuration.
        forbidden: token ids that are never sampled.
    """

    def __init__(self, folder: str | Path, cfg: RunConfig, forbidden: Sequence[int] = ()) -> None:
        _join_process_group()
        stage = 3 if distributed.world() > 1 else 0
        model = _load(Path(folder), cfg, stage, None, forbidden)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._eyes = ImageInputs.of(folder, model.trunk)
        self._run: Callable[..., Any] = model.to(_device())
        if stage:
            config = deepspeed_config(cfg, OptimizerConfig(), stage)
            self._run = deepspeed.initialize(model=model, config=config, dist_init_required=False)[
                0
            ]

    @torch.no_grad()
    def forward(self, moved: MicroBatch, how: ForwardOptions) -> Scores:
        """Scores of one microbatch on the device; every rank runs as many."""
        return _forward(self._run, self._eyes, moved, how)

    def score(
        self, microbatches: list[MicroBatch], how: ForwardOptions | None = None
    ) -> list[Scores]:
        """Scores without gradients; a collective call."""
        return _score(self._run, self._eyes, microbatches, how or ForwardOptions())


class TrainingEngine:
    """A policy in training: one phase, one optimizer, one schedule.

    Args:
        folder: Hugging Face model folder; a value head beside it is loaded.
        cfg: the run's configuration (model, learner, seed).
        optimizer: the phase's optimizer.
        steps: optimizer steps of the phase, for the schedule.
        value: whether there is a value head.
        forbidden: token ids that are never sampled (`Renderer.forbidden`); their logits are
            biased as in the rollout engine.
        make_optimizer: builds the optimizer; tests pass SGD.

    Attributes:
        counters: int by name, saved and loaded with the state; "steps" is the schedule's
            position, callers add their own.
        device: where the microbatches are moved.
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
    ) -> None:
        _join_process_group()
        self.counters: dict[str, int] = {"steps": 0}
        self.device = _device()
        self.layout = "auto"
        self._cfg, self._optimizer_cfg, self._steps = cfg, optimizer, steps
        self._stage = cfg.learner.zero_stage
        self._folder = Path(folder)
        seed = cfg.seed if value else None
        self.model = _load(self._folder, cfg, self._stage, seed, forbidden)
        if _attention() == "flash_attention_2":
            self.layout = "flat"
        self._eyes = ImageInputs.of(self._folder, self.model.trunk)
        names = checkpoint_names(self.model.trunk)
        add_adapters(self.model.trunk, cfg.model, cfg.seed)
        self._whole = GatheredWeights(self.model.trunk, self._gathered, names)
        self._own_clip = clips_itself(cfg, self._stage)
        self._deepspeed, self._optimizer, _, _ = deepspeed.initialize(
            model=self.model,
            optimizer=make_optimizer(parameter_groups(self.model, optimizer), optimizer),
            config=deepspeed_config(cfg, optimizer, self._stage),
            dist_init_required=False,
        )

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the folder where the phase began."""
        return AutoTokenizer.from_pretrained(self._folder)

    def microbatches(self, sequences: list[batch.Sequence]) -> list[MicroBatch]:
        """Pack sequences to the learner's budgets in the layout that suits the device.

        Raises:
            ValueError: a sequence's pictures and their tokens do not agree.
        """
        budget = self._cfg.learner
        for sequence in sequences:
            if self._eyes is not None:
                self._eyes.check(sequence)
            elif sequence.pictures:
                raise ValueError(f"{self._folder} is a model of text alone; it sees no pictures")
        return batch.microbatches(
            sequences, budget.microbatch_tokens, self.layout, budget.microbatch_images
        )

    def step(
        self,
        microbatches: list[MicroBatch],
        loss_fn: LossFn,
        how: ForwardOptions | None = None,
        reference: Reference | None = None,
    ) -> dict[str, float]:
        """One optimizer step over all ranks' microbatches; a collective call.

        Args:
            microbatches: this rank's, possibly none.
            loss_fn: from a microbatch's Scores to its share of the GLOBAL loss (a sum already
                divided by the global count) and to named shares of other global means.
            how: how to run the model.
            reference: when given, each microbatch's Scores carry its distribution.

        Returns:
            loss, lr, grad_norm (before clipping) and the named means, equal on every rank.

        Raises:
            FloatingPointError: the gradient is not finite; the weights are as they were.
        """
        engine, how = self._deepspeed, how or ForwardOptions()
        rate = learning_rate(self._optimizer_cfg, self.counters["steps"], self._steps)
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0 if how.freeze_trunk and group["part"] == "trunk" else rate
        rounds = pad_to_lockstep(microbatches, self._eyes)
        shares: list[Stats] = []
        for i, microbatch in enumerate(rounds):
            real = i < len(microbatches)
            moved = microbatch.to(self.device)
            scores = _forward(engine, self._eyes, moved, how)
            if reference is not None:
                scores = scores._replace(reference=reference.forward(moved, how).distribution)
            loss = _anchor(scores)
            if real:
                share, stats = loss_fn(scores, moved)
                shares.append({"loss": share.detach(), **stats})
                loss = loss + share
            engine.set_gradient_accumulation_boundary(i == len(rounds) - 1)
            engine.backward(loss * distributed.world())  # DeepSpeed averages over ranks
        norm = self._apply()
        self.counters["steps"] += 1
        return {**distributed.all_sum_named(shares), "lr": rate, "grad_norm": norm}

    def _apply(self) -> float:
        """Clip the gradients, update the weights; the norm before clipping.

        DeepSpeed clips, except at stage 0 in float32, where it would not tell the norm.
        """
        if self._own_clip:
            limit = self._optimizer_cfg.max_grad_norm or math.inf
            norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
            if math.isfinite(norm):
                self._deepspeed.step()
        else:  # leaves the weights as they are when the norm is not finite
            self._deepspeed.step()
            norm = float(self._deepspeed.get_global_grad_norm() or 0.0)
        if not math.isfinite(norm):
            step = self.counters["steps"]
            raise FloatingPointError(f"gradient norm of step {step} is {norm}; it must be finite")
        return norm

    def skip(self, steps: int) -> None:
        """Move the schedule on by steps that are not taken."""
        self.counters["steps"] += steps

    def score(
        self, microbatches: list[MicroBatch], how: ForwardOptions | None = None
    ) -> list[Scores]:
        """Scores of each microbatch without gradients, on the device; a collective call."""
        return _score(self._deepspeed, self._eyes, microbatches, how or ForwardOptions())

    def weight_shapes(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Name, dtype and full shape of what `weights` yields, in its order; not collective."""
        return self._whole.shapes()

    def weights(self, bucket_bytes: int, everywhere: bool = False) -> Iterator[Bucket]:
        """The policy's weights in buckets of about bucket_bytes; a collective call.

        Rank 0 gets them, or every rank: see GatheredWeights.buckets. Consume it to the end.
        """
        return self._whole.buckets(bucket_bytes, everywhere)

    def perturb(self, kind: str, seed: int) -> bool:
        """Change the weights of one kind until `restore`; see GatheredWeights.perturb."""
        return self._whole.perturb(kind, seed)

    def restore(self) -> None:
        """Put back exactly what `perturb` changed."""
        self._whole.restore()

    def export(self, folder: str | Path) -> None:
        """Write a Hugging Face folder that plain transformers and vLLM load; a collective call.

        The tokenizer's files are copied from where the phase began; the value head, if there
        is one, lies beside the model.
        """
        target = Path(folder)
        state = self._whole.copies()
        head = self._full(self.model.value_head) if self.model.value_head is not None else {}
        if distributed.rank() == 0:
            target.mkdir(parents=True, exist_ok=True)
            for file in self._folder.iterdir():
                copy = target / file.name
                small = file.is_file() and not file.name.endswith(WEIGHT_FILES)
                if small and file.resolve() != copy.resolve():
                    shutil.copyfile(file, copy)
            self.model.trunk.save_pretrained(target, state_dict=state)  # type: ignore[operator]
            if head:
                save_file(head, target / VALUE_HEAD_FILE)
                write_index(target)
        distributed.barrier()  # nobody reads the folder before it is whole

    def save(self, folder: str | Path) -> None:
        """Write the resumable state: weights, optimizer, schedule, RNG, counters; collective."""
        state = {"counters": dict(self.counters), "torch_rng": torch.get_rng_state()}
        # What adapters leave frozen is the folder's, where the phase began.
        self._deepspeed.save_checkpoint(
            str(folder), STATE, state, exclude_frozen_parameters=bool(self._whole.adapters)
        )

    def load(self, folder: str | Path) -> None:
        """Take up a state that `save` wrote with as many ranks; collective.

        Raises:
            ValueError: there is no such state.
        """
        found: tuple[Any, Any] = (None, None)
        if (Path(folder) / STATE).is_dir():
            whole = not self._whole.adapters
            found = self._deepspeed.load_checkpoint(str(folder), STATE, load_module_strict=whole)
        path, state = found
        if path is None:
            raise ValueError(
                f"state folder is {folder}; it must hold what TrainingEngine.save wrote"
            )
        self.counters = dict(state["counters"])
        torch.set_rng_state(state["torch_rng"])

    def close(self) -> None:
        """Free the engine's buffers and hooks; call before the next phase's engine."""
        self._deepspeed.destroy()

    def _full(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        """A module's full parameters on the CPU, on rank 0; empty elsewhere."""
        state: dict[str, torch.Tensor] = {}
        for name, parameter in module.named_parameters():
            with self._gathered([parameter]):
                if distributed.rank() == 0:
                    state[name] = parameter.detach().cpu().clone()
        return state

    def _gathered(
        self, parameters: list[torch.nn.Parameter], write: bool = False
    ) -> contextlib.AbstractContextManager[Any]:
        """Whole parameters inside the block; with write, changes made alike on all ranks stay."""
        if self._stage < 3:
            return contextlib.nullcontext()
        return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if write else None)


def _device() -> torch.device:
    return torch.device(get_accelerator().current_device_name())


def _join_process_group() -> None:
    """Make a group of one where nobody has made a group (Ray Train does)."""
    if not torch.distributed.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it; launchers set it


def _load(
    folder: Path, cfg: RunConfig, stage: int, seed: int | None, forbidden: Sequence[int]
) -> ActorCritic:
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[cfg.model.dtype]
    trunk = load_trunk(folder, dtype, _attention())
    for name, parameter in trunk.named_parameters():
        if kind_of(name, trunk) in FROZEN[cfg.model.freeze]:
            parameter.requires_grad_(False)
    if cfg.model.gradient_checkpointing:
        trunk.train()  # or transformers keeps the activations all the same; there is no dropout
        trunk.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    head = None
    if seed is not None:
        hidden = trunk.config.get_text_config().hidden_size  # type: ignore[union-attr,operator]
        head = load_value_head(folder, hidden, seed)
    return ActorCritic(trunk, head, forbidden).to(dtype)


def _attention() -> str:
    """Attention of variable length where there is a GPU and the kernels, else torch's own."""
    return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"


def _forward(
    engine: Callable[..., Any], eyes: ImageInputs | None, moved: MicroBatch, how: ForwardOptions
) -> Scores:
    seen = eyes.read(moved, moved.token_ids.device) if eyes else {}
    return Scores(
        *engine(
            moved.token_ids, moved.position_ids, moved.actions, moved.value_positions, how, seen
        )
    )


def _anchor(scores: Scores) -> torch.Tensor:
    """0, by way of every output: ZeRO-3 wants the same backward pass on every rank."""
    parts = [t.reshape(-1)[:0].sum() for t in scores if t is not None and t.requires_grad]
    return torch.stack(parts).sum()


@torch.no_grad()
def _score(
    engine: Callable[..., Any],
    eyes: ImageInputs | None,
    microbatches: list[MicroBatch],
    how: ForwardOptions,
) -> list[Scores]:
    rounds = pad_to_lockstep(microbatches, eyes)
    scores = [_forward(engine, eyes, m.to(_device()), how) for m in rounds]
    return scores[: len(microbatches)]
