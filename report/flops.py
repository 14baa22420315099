"""Floating-point operations of training and sampling, from sizes and token counts alone.

A multiply-add counts as 2.
"""

from __future__ import annotations

from dataclasses import dataclass

# The paper's lambda: tokens sampled for one trained.
REREAD = {"cardinal/GeneralPoints-v0": 6.0, "cardinal/VIRL-v0": 5.1}


@dataclass(frozen=True)
class Size:
    """Of a model: weights in the matrices between embedding and output, and in the output layer;
    layers; width of its queries.
    """

    matrices: float
    output: float = 0.0
    layers: int = 0
    width: int = 0


def forward(size: Size, tokens: float, context: float = 0.0, answers: float = 1.0) -> float:
    """FLOPs of reading `tokens`, each with `context` tokens to attend to on average.

    2 a weight and token, the output layer's for the share `answers` of them; and 4 · layers ·
    width · context for scores and weighted values (Kaplan et al. 2020, "Scaling Laws for Neural
    Language Models", table 1; the masked half counts too: context is the sequence length).
    """
    weights = size.matrices + answers * size.output
    return tokens * (2 * weights + 4 * size.layers * size.width * context)


def training(size: Size, tokens: float, context: float = 0.0, answers: float = 1.0) -> float:
    """FLOPs of learning from `tokens`: the backward pass is two forward passes."""
    return 3 * forward(size, tokens, context, answers)


def paper(parameters: float, sft: float, rl: float, reread: float) -> float:
    """The axis of the paper's plots: 6 N (D_SFT + D_RL) + 2 N · lambda · D_RL.

    Its D_init, the SFT before either, is in `sft` here.
    """
    return 6 * parameters * (sft + rl) + 2 * parameters * reread * rl
