"""Peak memory of a learner rank in every act of a run: load, step, proof, sync, export, resume.

Prints one JSON row: by act the memory of the largest rank at its peak, above what a process holds
before it loads anything; `--account`: one for each of several settings, beside the memory account.
Of a CPU it is resident memory, with `--gpu` what torch has taken of the card.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from benchmarks.memory_settings import (
    ACCOUNT,
    ON_GPU,
    SIZES,
    Setting,
    llama_config,
    make_model,
    parameters,
)

ACCELERATOR = "DS_ACCELERATOR"  # DeepSpeed's; the ranks inherit it
os.environ.setdefault(ACCELERATOR, "cpu")
GIB = 2**30
ACTS = ("load", "step", "proof", "sync", "export", "state", "resume")


def on_gpu() -> bool:
    """Whether the ranks compute on a GPU."""
    return os.environ[ACCELERATOR] == "cuda"


class Peaks:
    """Memory of this process: `base`, before anything is loaded, and each act's peak above it.

    On a GPU the base is CUDA's context, and the peak is what torch's allocator had taken.
    """

    def __init__(self) -> None:
        import learner.engine  # noqa: F401 - what a process holds anyway

        self.base = _context() if on_gpu() else _resident("VmRSS")
        self.acts: dict[str, int] = {}

    def measure(self, name: str, act: Callable[[], None]) -> None:
        """Do it, and keep the peak."""
        gc.collect()
        if on_gpu():
            self._measure_on_gpu(name, act)
            return
        ctypes.CDLL(None).malloc_trim(0)  # what an earlier act has freed
        Path("/proc/self/clear_refs").write_text("5")
        act()
        self.acts[name] = _resident("VmHWM") - self.base

    def _measure_on_gpu(self, name: str, act: Callable[[], None]) -> None:
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        act()
        self.acts[name] = torch.cuda.max_memory_reserved()


def _context() -> int:
    import torch

    torch.zeros(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def run(rank: int, setting: Setting, folder: Path, acts: list[str]) -> None:
    """One rank: acts of a run in turn; `resume` stands alone."""
    import torch

    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    if on_gpu():
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu() else "gloo",
        init_method=f"file://{folder}/join-{acts[0]}",
        rank=rank,
        world_size=setting.ranks,
        timeout=timedelta(minutes=30),
    )
    if acts == ["resume"]:
        _resumed(rank, setting, folder)
    else:
        _acts(rank, setting, folder, acts)
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # threads of gloo that Python's own end meets abort the process


def _acts(rank: int, setting: Setting, folder: Path, acts: list[str]) -> None:
    from learner.model import WEIGHT_KINDS
    from learner.snapshot import write_file

    held, peaks = [], Peaks()
    peaks.measure("load", lambda: held.append(_engine(setting, folder)))
    (engine,) = held

    def step() -> None:  # the first makes the moments, at stage 0 in float32
        _step(engine, setting, steps=2 if (setting.stage, setting.dtype) == (0, "float32") else 1)

    def prove() -> None:
        for kind in WEIGHT_KINDS:
            engine.perturb(kind, 1)
            engine.restore()

    def sync() -> None:
        for _ in engine.weights(2**26):
            pass

    def state() -> None:
        for name, content in engine.snapshot().items():
            file = folder / "state" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                write_file(stream, content)

    def export() -> None:
        engine.export(folder / "export")

    for name, act in zip(ACTS[1:], (step, prove, sync, export, state), strict=False):
        if name in acts:
            peaks.measure(name, act)
    _write(folder, rank, peaks)


def _resumed(rank: int, setting: Setting, folder: Path) -> None:
    def resume() -> None:
        engine = _engine(setting, folder)
        state = folder / "state"
        names = [str(f.relative_to(state)) for f in sorted(state.rglob("*")) if f.is_file()]
        engine.load(names, lambda name: (state / name).open("rb"))

    peaks = Peaks()
    peaks.measure("resume", resume)
    _write(folder, rank, peaks)


def config_of(setting: Setting):
    """The run's configuration."""
    from configs.schema import LearnerConfig, ModelConfig, RolloutConfig, RunConfig

    model = ModelConfig(
        dtype=setting.dtype,
        lora_rank=setting.lora,
        gradient_checkpointing=setting.checkpointing,
    )
    learner = LearnerConfig(
        ranks=setting.ranks,
        zero_stage=setting.stage,
        offload=setting.offload,
        microbatch_tokens=setting.tokens,
        packing="padded",  # whose check at the start is the shortest
    )
    rollout = RolloutConfig(context_tokens=setting.length)
    return RunConfig(model=model, learner=learner, rollout=rollout)


def _engine(setting: Setting, folder: Path):
    from configs.schema import OptimizerConfig
    from learner.engine import TrainingEngine
    from learner.optimizer import adamw

    make = _sgd if setting.sgd else adamw
    return TrainingEngine(
        folder / "model",
        config_of(setting),
        OptimizerConfig(),
        10,
        False,
        make_optimizer=make,
    )


def _sgd(groups, cfg):
    import torch

    return torch.optim.SGD(groups, lr=cfg.lr)


def _step(engine, setting: Setting, steps: int) -> None:
    import numpy as np

    from configs.schema import SFTConfig
    from learner.batch import Sequence
    from learner.sft import sft_step

    rng, mask = np.random.default_rng(0), np.arange(setting.length) > 0
    count = max(1, setting.tokens // setting.length)
    vocabulary = setting.vocabulary or SIZES[setting.size][-1]
    for _ in range(steps):
        data = [Sequence(rng.integers(3, vocabulary, setting.length), mask) for _ in range(count)]
        sft_step(engine, data, SFTConfig())


def _write(folder: Path, rank: int, peaks: Peaks) -> None:
    row = {"base": peaks.base, "acts": peaks.acts}
    (folder / f"{rank}-{'-'.join(peaks.acts)}.json").write_text(json.dumps(row))


def measured(
    setting: Setting, root: Path, acts: Sequence[str] = ACTS, model: Path | None = None
) -> dict[str, object]:
    """Bytes at the peak of each act, of the largest rank; parameters, and the largest base.

    Args:
        setting: what is trained, and how.
        root: where a temporary folder is made.
        acts: which; `resume` loads the state again, in new processes.
        model: the model's folder, which stays; made if it is not there.
    """
    import torch

    with tempfile.TemporaryDirectory(dir=root) as name:
        folder = Path(name)
        made = model or folder / "model"
        if not made.is_dir():
            make_model(made, setting)
        if model:
            (folder / "model").symlink_to(model.resolve())
        for own in ([a for a in acts if a != "resume"], [a for a in acts if a == "resume"]):
            if own:
                torch.multiprocessing.spawn(run, (setting, folder, own), setting.ranks)
        rows = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    acts: dict[str, int] = {}
    for row in rows:
        for act, size in row["acts"].items():
            acts[act] = max(acts.get(act, 0), size)
    return {
        "parameters": parameters(setting),
        "base": max(row["base"] for row in rows),
        "acts": acts,
    }


def account_of(setting: Setting) -> dict[str, dict[str, int]]:
    """What the account says of a rank, by moment and part."""
    import torch
    from transformers import LlamaForCausalLM

    from cluster.placement import learner_memory
    from cluster.placement.rank import Rank
    from configs.model_folder import size_of

    config = llama_config(setting)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    shapes = ((name, tuple(p.shape)) for name, p in model.named_parameters())
    size = size_of(shapes, config.num_hidden_layers, config.hidden_size, config.vocab_size, None)
    run = Rank(config_of(setting), size)
    return learner_memory.on_gpu(run) if on_gpu() else learner_memory.moments(run)


def compare(setting: Setting, root: Path) -> dict[str, object]:
    """A row: the peak of a rank, measured and by the account, and their ratio.

    `root` keeps the model, for other settings with its sizes.
    """
    model = root / f"model-{setting.size}-{setting.vocabulary}"  # of all settings with its sizes
    acts = [act for act in ACTS if act not in ("state", "resume")]
    found, account = measured(setting, root, acts, model), account_of(setting)
    sums = {moment: sum(parts.values()) for moment, parts in account.items()}
    base = found["base"]
    peak, expected = base + max(found["acts"].values()), base + max(sums.values())
    return {
        "name": f"memory account: peak of a rank{' on its GPU' * on_gpu()}, GiB",
        "setting": asdict(setting),
        "measured": round(peak / GIB, 3),
        "account": round(expected / GIB, 3),
        "ratio": round(expected / peak, 3),
        "base": round(base / GIB, 3),
        "acts": {act: round(size / GIB, 3) for act, size in found["acts"].items()},
        "moments": {moment: round(size / GIB, 3) for moment, size in sums.items()},
        "parts": {m: {k: round(v / GIB, 3) for k, v in p.items()} for m, p in account.items()},
    }


def main(argv: list[str] | None = None) -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--model", type=Path, help="its folder, which stays; made if need be")
    parser.add_argument("--acts", nargs="*", choices=ACTS, default=list(ACTS))
    parser.add_argument("--account", action="store_true")
    parser.add_argument("--only", type=int, nargs="*", help="which settings of --account")
    parser.add_argument("--gpu", action="store_true", help="compute there, with settings for one")
    for field in Setting.__dataclass_fields__.values():
        name = f"--{field.name}"
        if isinstance(field.default, bool):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=type(field.default), default=field.default)
    given = vars(parser.parse_args(argv))
    root, acts, model = given.pop("root"), given.pop("acts"), given.pop("model")
    account, only = given.pop("account"), given.pop("only")
    if given.pop("gpu"):
        os.environ[ACCELERATOR] = "cuda"
    if account:
        settings = ON_GPU if on_gpu() else ACCOUNT
        with tempfile.TemporaryDirectory(dir=root) as folder:
            for setting in settings if only is None else (settings[i] for i in only):
                print(json.dumps(compare(setting, Path(folder))), flush=True)
        return
    setting = Setting(**given)
    found = measured(setting, root, acts, model)
    sizes = {act: round(size / GIB, 3) for act, size in found["acts"].items()}
    row = {"name": "partitioned memory, GiB of a rank above its base", "setting": asdict(setting)}
    print(json.dumps(row | {k: v for k, v in found.items() if k != "acts"} | {"acts": sizes}))


if __name__ == "__main__":
    main()
