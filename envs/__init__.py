"""Environments: Gymnasium games of text and pictures; importing this registers them."""

from envs.registry import register

register()
