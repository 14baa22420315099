"""Parity: do engine and learner agree about the log-probabilities of what the engine sampled?

Trajectories and the policy version that the learner now holds go in, the differences come
out (law 6). It does not know how the weights travelled.
"""
