"""The part of a page between `<!-- name -->` and `<!-- /name -->`, which a test makes."""

import os
import re
from pathlib import Path


def check_section(page: Path, name: str, text: str) -> None:
    """Assert that a page's section is `text`; with WRITE_DOCS=1 in the environment write it."""
    section = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    stands = page.read_text()
    assert section.search(stands), f"{page.name} has no section {name}"
    wanted = section.sub(lambda found: f"{found[1]}\n{text.strip()}\n\n{found[2]}", stands)
    if os.environ.get("WRITE_DOCS"):
        page.write_text(wanted)
    assert page.read_text() == wanted, f"run again with WRITE_DOCS=1 to write section {name}"
