"""Where the checkout is: the import root, which jobs and workers get as it is."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
