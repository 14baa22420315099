"""Environments: Gymnasium games of text and pictures; importing this registers them."""
