"""The commands of `cardinal`, one file per group: each function with its arguments."""
