"""The page of keys is the one that the schema makes."""

from configs import docs
from configs.paths import ROOT


def test_the_page_of_keys_is_current():
    """`python -m configs.docs > docs/configuration.md` makes it."""
    assert (ROOT / "docs" / "configuration.md").read_text() == docs.page()
