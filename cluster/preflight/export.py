"""`cardinal check` of a run's end: a checkpoint of this model can be written, and read again.

It is written without weights, into a temporary folder: what fails here would fail after the
training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from configs.load import ConfigError
from configs.model_folder import find_model, reason
from rollout.renderer import Renderer


def check_export(path: str, stop_ids: Sequence[int]) -> None:
    """Write and read the configuration, tokenizer and processor of a model.

    Args:
        path: model.path.
        stop_ids: of the run's renderer.

    Raises:
        ConfigError: one sentence with the model and what transformers says.
    """
    from transformers import AutoConfig

    from learner.export import save_trunk
    from learner.trunk import empty_trunk

    with tempfile.TemporaryDirectory(prefix="cardinal-") as draft:
        try:
            folder = find_model(path)
            save_trunk(empty_trunk(folder), folder, Path(draft), (), stop_ids)
            AutoConfig.from_pretrained(draft, trust_remote_code=False)
            Renderer.load(draft)
        except Exception as error:  # the boundary to transformers, which raises all kinds
            raise ConfigError(
                f"model.path={path}: a checkpoint of it cannot be written and read again: "
                f"{reason(error)}"
            ) from error
