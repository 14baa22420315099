"""`cardinal check` of a run's end: a checkpoint of this model can be written, and read again.

Only the files beside the weights are written, into a temporary folder: what fails here would fail
after the training.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from configs.load import ConfigError
from configs.model_folder import find_model
from configs.text import one_line
from rollout.renderer import Renderer

SMALL = 2**28  # bytes; a larger file is a weight


def check_export(path: str) -> None:
    """Write and read the configuration, tokenizer and processor of a model.

    Raises:
        ConfigError: one sentence with the model and what transformers says.
    """
    from transformers import AutoConfig

    with tempfile.TemporaryDirectory(prefix="cardinal-") as draft:
        try:
            folder = find_model(path)
            for file in folder.iterdir():
                if file.is_file() and file.suffix != ".safetensors" and file.stat().st_size < SMALL:
                    shutil.copyfile(file, Path(draft, file.name))
            AutoConfig.from_pretrained(folder).save_pretrained(draft)
            AutoConfig.from_pretrained(draft)
            Renderer.load(draft)
        except Exception as error:  # the boundary to transformers, which raises all kinds
            raise ConfigError(
                f"model.path={path}: a checkpoint of it cannot be written and read again: "
                f"{one_line(error)}"
            ) from error
