"""Shared by all tests: one engine a session, and no deadlines that a noisy machine would miss."""

import os

from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
settings.register_profile("cardinal", deadline=None)
settings.load_profile("cardinal")
