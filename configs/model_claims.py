"""What a model folder says of itself, read without transformers, which takes seconds to import.

Refused is only what transformers would refuse too, or could not use: `check_model`, the renderer
and the learner look at the rest, of the model itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from configs.load import ConfigError
from configs.model_folder import Shape, read_json
from configs.positions import longest_sequence, longrope_positions
from configs.text import one_line

CLASSES = ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES")
EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight", "gpt_neox.embed_in.weight")
LAYER = re.compile(r"(?:model\.layers|transformer\.h|gpt_neox\.layers)\.(\d+)\.")
# Classes of vLLM's that do not take over all weights of a learner's, and why: read in their code,
# measured by tests/support/family_table.py. The proof of weights would end such a run.
UNSYNCED = {
    "GptOssForCausalLM": "vLLM's class copies sinks and biases into its parameters past its own "
    "reload, which restores the old ones",
    "LagunaForCausalLM": "vLLM's class leaves out the routers' biases, when it loads a folder too",
    "PhiForCausalLM": "vLLM's class makes the output layer's bias anew, and its own reload takes "
    "it away",
}
# Classes of transformers' whose forward pass fails in the learner, and why.
UNTRAINED = {
    "Cosmos3EdgeForConditionalGeneration": "its class takes positions in three dimensions without "
    "those of the text, by which sequences in a row are told apart",
}
PARTS = ("text_config", "llm_config", "language_config", "thinker_config", "decoder")


def check_claims(folder: Path, key: str, shapes: Mapping[str, Shape], tokens: int) -> None:
    """Refuse a folder whose own files say that it cannot be a run's policy.

    Args:
        folder: of the model; it holds a config.json that can be read.
        key: what the error sentences begin with.
        shapes: of the tensors in its weight files.
        tokens: rollout.context_tokens.

    Raises:
        ConfigError: one sentence with the value and the rule.
    """
    config = read_json(folder / "config.json", key)
    _check_kind(config, key)
    if not any(part in config for part in PARTS):  # else these keys are another part's
        _check_positions(config, key, tokens)
        _check_sizes(config, key, shapes)
    _check_template(folder, key)


def check_class(folder: Path, key: str) -> None:
    """Refuse to train a class that the learner cannot run, or whose weights engines would miss.

    Raises:
        ConfigError: its class, and why.
    """
    for name in read_json(folder / "config.json", key).get("architectures") or []:
        if name in UNTRAINED:
            raise ConfigError(f"{key}: is {name}, which cannot be trained: {UNTRAINED[name]}")
        if name in UNSYNCED:
            raise ConfigError(
                f"{key}: is {name}, of whose weights engines would miss some: {UNSYNCED[name]}"
            )


def _check_kind(config: Mapping[str, Any], key: str) -> None:
    """As transformers' own tables have it, which are read as text."""
    kind, classes = config.get("model_type"), config.get("architectures") or []
    tables = [_source(f"models/auto/{name}.py") for name in ("configuration_auto", "auto_mappings")]
    known = any(f'"{kind}"' in text for text in tables)
    if isinstance(kind, str) and all(tables) and not known and "auto_map" not in config:
        raise ConfigError(
            f"{key}: config.json cannot be used: its model_type is {kind!r}, and the installed "
            "transformers has no such model"
        )
    named = [_table(_source("models/auto/modeling_auto.py"), name) for name in CLASSES]
    causal = any(f'"{name}"' in table for name in classes for table in named)
    if known and all(named) and not causal:
        raise ConfigError(
            f"{key}: is {', '.join(map(str, classes)) or 'of no named kind'}, no causal LM"
        )


def _source(file: str) -> str:
    """Text of a file of transformers, "" where there is none."""
    package = find_spec("transformers")
    path = Path(package.origin).parent / file if package and package.origin else None
    return path.read_text("utf-8") if path and path.is_file() else ""


def _table(source: str, name: str) -> str:
    """The text of a table in a source; "" without it."""
    return source.partition(f"\n{name} = OrderedDict(")[2].partition("\n)\n")[0]


def _check_positions(config: Mapping[str, Any], key: str, tokens: int) -> None:
    positions = longest_sequence(config)
    if positions is not None and tokens > positions:
        path = key.removeprefix("model.path=")
        raise ConfigError(too_few_positions(tokens, path, positions))
    original = longrope_positions(config)
    if original and tokens > original:
        raise ConfigError(
            f"rollout.context_tokens={tokens}: {key} has rotary positions of type longrope, whose "
            f"factors change beyond original_max_position_embeddings={original}, also those of "
            "shorter sequences beside; the context must not be longer"
        )


def too_few_positions(tokens: int, path: str | None, positions: int) -> str:
    """The refusal of a context that a model does not reach."""
    return f"rollout.context_tokens={tokens}: the model at {path} knows {positions} positions"


def _check_sizes(config: Mapping[str, Any], key: str, shapes: Mapping[str, Shape]) -> None:
    """The embedding and the number of layers, where files and config.json name them as most do."""
    sizes = config.get("vocab_size"), config.get("hidden_size")
    other = next((n for n in EMBEDDINGS if n in shapes and shapes[n] != sizes), None)
    wrong = ""
    if other and all(sizes):
        found, right = (" x ".join(map(str, shape)) for shape in (shapes[other], sizes))
        wrong = f"{other} is {found} and must be {right}"
    layers = {int(match[1]) for match in map(LAYER.match, shapes) if match}
    count = config.get("num_hidden_layers")
    if layers and isinstance(count, int) and len(layers) < count:
        wrong = f"they are of {len(layers)} layers, and num_hidden_layers is {count}"
    if wrong:
        raise ConfigError(f"{key}: the weights are not those of its config.json: {wrong}")


def _check_template(folder: Path, key: str) -> None:
    """A chat template is there, and is one of Jinja's."""
    sources = _templates(folder, key)
    if not sources and not (folder / "tekken.json").is_file():
        raise ConfigError(
            f"{key}: its tokenizer has no chat template; a policy plays in messages, so its "
            "tokenizer_config.json must define one, or chat_template.jinja be there"
        )
    from jinja2 import Environment, TemplateSyntaxError

    for source in sources[:1]:
        try:
            Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True).parse(source)
        except TemplateSyntaxError as error:
            if "generation" not in source:  # a tag of transformers' own
                raise ConfigError(
                    f"{key}: its chat template cannot be read: {one_line(error)}"
                ) from error


def _templates(folder: Path, key: str) -> list[str]:
    """The sources of a folder's default chat template, the one that counts first."""
    sources, own = [], folder / "chat_template.jinja"
    if own.is_file():
        sources.append(own.read_text("utf-8", errors="replace"))
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        given = read_json(folder / name, key).get("chat_template")
        if isinstance(given, list):  # of named ones
            given = {one.get("name"): one.get("template") for one in given}
        if isinstance(given, dict):
            given = given.get("default")
        if isinstance(given, str):
            sources.append(given)
    return list(filter(None, sources))
