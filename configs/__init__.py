"""Typed configuration: what a run may be asked to do, and how a YAML file becomes that."""
