"""Parts of pages: what is escaped, what is left out, and that a picture is inside the page."""

from __future__ import annotations

import base64
from pathlib import Path

from report.html import document, picture, section, table


def test_a_document_escapes_its_facts_and_takes_its_body_as_it_is() -> None:
    whole = document(
        "<a>", "run & more", ("failed", "failed <"), ["1 < 2", "", "3"], "<p>body</p>", "q { }"
    )
    assert whole.startswith("<!DOCTYPE html>")
    assert "<title>&lt;a&gt;: run &amp; more</title>" in whole
    assert '<h1>&lt;a&gt;<span class="status failed">failed &lt;</span></h1>' in whole
    assert '<p class="faint">1 &lt; 2 · 3</p>' in whole  # the empty one is left out
    assert "<p>body</p>" in whole
    assert "q { }</style>" in whole
    assert "<script" not in whole
    assert "http" not in whole


def test_a_section_without_a_body_is_nothing() -> None:
    assert section("Title", "") == ""
    assert section("Title", "<p>x</p>") == "<section>\n<h2>Title</h2>\n<p>x</p>\n</section>"


def test_a_table_has_a_head_and_a_line_a_row() -> None:
    found = table(["a", "<b>b</b>"], [["1", "2"], ["3", "4"]])
    assert "<thead><tr><th>a</th><th><b>b</b></th></tr></thead>" in found
    assert "<tr><td>1</td><td>2</td></tr>\n<tr><td>3</td><td>4</td></tr>" in found


def test_a_picture_is_inside_the_page(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"\x89PNG bytes")
    found = picture(tmp_path / "x.png", 'a "b" <c>')
    alt, _, source = found.partition("src=")
    assert "&quot;b&quot; &lt;c&gt;" in alt
    data = source.split("base64,")[1].split('"')[0]
    assert base64.b64decode(data) == b"\x89PNG bytes"
