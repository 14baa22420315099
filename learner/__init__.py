"""Learning: packed batches, advantages, losses, the DeepSpeed engine, SFT and PPO."""

from learner.accelerator import name_accelerator

name_accelerator()
