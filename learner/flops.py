"""Floating-point operations of training and playing, from sizes and token counts alone.

Comes in: a transformer's sizes and how many tokens; goes out: a number. Multiply-adds count 2.
"""

from __future__ import annotations

from dataclasses import dataclass

REREAD = {"gp": 6.0, "virl": 5.1}  # the paper's lambda: tokens played for one trained


@dataclass(frozen=True)
class Size:
    """Of a model: parameters in matrices (no input embedding), layers, width of its queries."""

    parameters: int
    layers: int = 0
    width: int = 0


def forward(size: Size, tokens: float, context: float = 0.0) -> float:
    """FLOPs of reading `tokens`, each with `context` tokens to attend to on average.

    2 N a token, and 4 · layers · width · context for scores and weighted values (Kaplan et al.
    2020, "Scaling Laws for Neural Language Models", table 1; a kernel that computes the masked
    half too has the whole sequence length as context).
    """
    return tokens * (2 * size.parameters + 4 * size.layers * size.width * context)


def training(size: Size, tokens: float, context: float = 0.0) -> float:
    """FLOPs of learning from `tokens`: the backward pass is two forward passes."""
    return 3 * forward(size, tokens, context)


def paper(parameters: int, initial: float, sft: float, rl: float, reread: float) -> float:
    """The axis of the paper's plots: 6 N (D_init + D_SFT + D_RL) + 2 N · lambda · D_RL."""
    return 6 * parameters * (initial + sft + rl) + 2 * parameters * reread * rl
