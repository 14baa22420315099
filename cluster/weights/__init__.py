"""The channels by which weights reach the rollout engines."""
