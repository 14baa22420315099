"""Names below a folder or a URI are folders there, whatever they hold."""

from __future__ import annotations

import pytest

from configs.paths import below, is_uri


@pytest.mark.parametrize(
    ("place", "name", "expected"),
    [
        ("/data", "run", "/data/run"),
        ("/data/", "a b", "/data/a b"),
        ("/data/what?x", "run", "/data/what?x/run"),
        ("s3://b/c", "run", "s3://b/c/run"),
        ("s3://b/c/?region=eu-1&scheme=http", "run", "s3://b/c/run?region=eu-1&scheme=http"),
        ("file:///d", "%2E%2E%2Fout", "file:///d/%252E%252E%252Fout"),
        ("file:///d", "a#b", "file:///d/a%23b"),
        ("file:///d", "a?b", "file:///d/a%3Fb"),
        ("file:///d", "ä b", "file:///d/%C3%A4%20b"),
    ],
)
def test_a_name_is_one_folder_below_the_place(place, name, expected):
    assert below(place, name) == expected


def test_several_names():
    assert below("s3://b?x=1", "study", "an arm") == "s3://b/study/an%20arm?x=1"


def test_a_uri_has_a_scheme():
    assert is_uri("s3://b/c") and is_uri("file:///d")
    assert not is_uri("/data/what?x")
