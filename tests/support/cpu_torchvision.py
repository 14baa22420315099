"""Makes torchvision's Python code importable on a CPU, where it is installed at all.

PyPI's build is for CUDA: its compiled operators do not load here, and its own code asks for two of
them while it is imported. Import this before transformers, vLLM or torchvision.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

if find_spec("torchvision") and torch.version.cuda is None:
    for name in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
