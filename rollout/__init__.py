"""Rollouts: vLLM engines, episodes in flight, their trajectories, and receiving weights."""
