"""Playing: vLLM engines, episodes in flight, trajectories, and the weights they receive."""
