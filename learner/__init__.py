"""Learning: packed batches, advantages, losses, the DeepSpeed engine, SFT and PPO."""
