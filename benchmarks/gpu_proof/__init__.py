"""`make gpu-proof`: short runs on one or two GPUs that answer each ◇ of docs/gpu.md."""
