"""The picture of a trace: a row for each track, a bar for each span."""

from __future__ import annotations

import pytest
from matplotlib import pyplot

from report import trace_picture
from report.trace import choose
from report.trace_picture import COLOURS, draw_trace
from tests.report.test_trace import recorded


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The two axes of a picture of updates 2 and 3."""
    axes = []

    monkeypatch.setattr(trace_picture.pyplot, "close", lambda figure: None)
    original = pyplot.subplots

    def subplots(*arguments, **options):
        figure, made = original(*arguments, **options)
        axes.extend(made)
        return figure, made

    monkeypatch.setattr(trace_picture.pyplot, "subplots", subplots)
    file = tmp_path / "trace.png"
    draw_trace(recorded(), choose(recorded(), "2-3"), file)
    assert file.read_bytes().startswith(b"\x89PNG")
    return axes


def test_each_track_is_a_row_from_the_learner_down(drawn):
    top, _ = drawn
    labels = [text.get_text() for text in top.get_yticklabels()]
    assert labels[0] == "learner rank 0"
    assert len(labels) == len(set(labels)) > 3
    assert top.yaxis_inverted()


def test_bars_are_as_long_as_what_they_show(drawn):
    top, _ = drawn
    takes = [
        path.get_extents().width
        for bar in top.collections
        for path in bar.get_paths()
        if tuple(bar.get_facecolor()[0][:3]) == pyplot.matplotlib.colors.to_rgb(COLOURS["take"])
    ]
    assert takes.count(6.0) >= 2  # both updates take for 6 s


def test_the_time_is_the_windows(drawn):
    _, bottom = drawn
    assert bottom.get_xlim() == (0.0, 20.0)
    assert bottom.get_xlabel() == "seconds of updates 2 to 3"
