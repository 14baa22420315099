"""Peak memory of a learner rank in every act of a run: load, step, proof, sync, export, resume.

Prints one JSON row: by act the resident memory of the largest rank at its peak, above what a
process holds before it loads anything. `--account` prints a row for each of several settings, with
what the memory account says beside it. Models hold zeros, in sparse files.
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
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")
GIB = 2**30
SIZES = {  # width, feed-forward, layers, heads, vocabulary
    "tiny": (64, 128, 2, 2, 300),
    "20M": (256, 704, 24, 4, 8_000),
    "100M": (768, 2048, 12, 12, 16_000),
    "0.5B": (1024, 2816, 32, 16, 32_000),
    "1.5B": (2048, 5632, 28, 16, 32_000),
}


@dataclass(frozen=True)
class Setting:
    """What is trained, and how.

    size: one of SIZES.
    vocabulary: instead of the size's; 0 for the size's own.
    ranks, stage: of the learner; the ZeRO stage.
    dtype: float32 or bfloat16.
    offload: the optimizer's state to the host, whose memory is the same one on a CPU.
    lora: rank of adapters; 0 trains every weight.
    checkpointing: of gradients.
    tokens, length: of a microbatch, and of a sequence.
    sgd: plain SGD, which has no moments, in AdamW's place.
    """

    size: str = "tiny"
    vocabulary: int = 0
    ranks: int = 2
    stage: int = 3
    dtype: str = "bfloat16"
    offload: bool = False
    lora: int = 0
    checkpointing: bool = False
    tokens: int = 64
    length: int = 32
    sgd: bool = False


ACCOUNT = (
    Setting("100M", ranks=1, stage=0, dtype="float32"),
    Setting("100M", ranks=1, stage=0),
    Setting("100M", ranks=1, stage=0, lora=16, dtype="float32"),
    Setting("20M", ranks=1, stage=0, dtype="float32", tokens=2048, length=64),
    Setting("20M", ranks=1, stage=0, dtype="float32", tokens=4096, length=64, checkpointing=True),
    Setting("20M", ranks=1, stage=0, dtype="float32", tokens=512, vocabulary=64_000),
    Setting("100M", stage=1, dtype="float32"),
    Setting("100M", stage=2),
    Setting("100M", stage=3, dtype="float32"),
    Setting("100M", stage=3),
    Setting("100M", stage=3, offload=True),
    Setting("100M", stage=3, dtype="float32", offload=True),
)
ACTS = ("load", "step", "proof", "sync", "export", "state", "resume")


def llama_config(setting: Setting):
    """The model's."""
    from transformers import LlamaConfig

    hidden, mlp, layers, heads, vocabulary = SIZES[setting.size]
    return LlamaConfig(
        vocab_size=setting.vocabulary or vocabulary,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )


def make_model(folder: Path, setting: Setting) -> None:
    """Write a Llama of zeros; in memory it takes what any other does."""
    import torch
    from transformers import LlamaForCausalLM

    config = llama_config(setting)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    folder.mkdir()
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    header, end = {}, 0
    for name, weight in model.named_parameters():
        offsets = [end, end + 2 * weight.numel()]
        header[name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def parameters(setting: Setting) -> int:
    """Number of the model's."""
    hidden, mlp, layers, _, vocabulary = SIZES[setting.size]
    layer = 4 * hidden**2 + 3 * hidden * mlp + 2 * hidden
    return layers * layer + 2 * (setting.vocabulary or vocabulary) * hidden + hidden


class Peaks:
    """Resident memory of this process: `base`, before anything is loaded, and each act's peak."""

    def __init__(self) -> None:
        import learner.engine  # noqa: F401 - what a process holds anyway

        self.base = _resident("VmRSS")
        self.acts: dict[str, int] = {}

    def measure(self, name: str, act: Callable[[], None]) -> None:
        """Do it, and keep the peak."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what an earlier act has freed
        Path("/proc/self/clear_refs").write_text("5")
        act()
        self.acts[name] = _resident("VmHWM") - self.base


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def run(rank: int, setting: Setting, folder: Path, acts: list[str]) -> None:
    """One rank: acts of a run in turn; `resume` stands alone."""
    import torch

    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    torch.distributed.init_process_group(
        "gloo",
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

    from cluster.placement.learner_memory import Rank, moments
    from configs.model_folder import size_of

    config = llama_config(setting)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    shapes = ((name, tuple(p.shape)) for name, p in model.named_parameters())
    size = size_of(shapes, config.num_hidden_layers, config.hidden_size, config.vocab_size, None)
    return moments(Rank(config_of(setting), size))


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
        "name": "memory account: peak of a rank, GiB",
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
    for field in Setting.__dataclass_fields__.values():
        name = f"--{field.name}"
        if isinstance(field.default, bool):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=type(field.default), default=field.default)
    given = vars(parser.parse_args(argv))
    root, acts, model = given.pop("root"), given.pop("acts"), given.pop("model")
    account, only = given.pop("account"), given.pop("only")
    if account:
        with tempfile.TemporaryDirectory(dir=root) as folder:
            for setting in ACCOUNT if only is None else (ACCOUNT[i] for i in only):
                print(json.dumps(compare(setting, Path(folder))), flush=True)
        return
    setting = Setting(**given)
    found = measured(setting, root, acts, model)
    sizes = {act: round(size / GIB, 3) for act, size in found["acts"].items()}
    row = {"name": "partitioned memory, GiB of a rank above its base", "setting": asdict(setting)}
    print(json.dumps(row | {k: v for k, v in found.items() if k != "acts"} | {"acts": sizes}))


if __name__ == "__main__":
    main()
