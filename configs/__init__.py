"""Typed configuration: the keys of runs and studies, and how they are read and checked."""
