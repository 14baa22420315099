"""The commands of `cardinal`, a file a group: each function with its arguments beside it."""
