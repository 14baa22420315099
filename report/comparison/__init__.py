"""Runs against each other: what differs, in the terminal and as a page."""
