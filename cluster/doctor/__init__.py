"""`cardinal doctor`: what works on a machine or a cluster, check by check, and what to do else."""
