"""What a trace's picture shows: a row for each track, bars in their places, counts below."""

from matplotlib import pyplot
from matplotlib.colors import to_hex

from report.trace import choose
from report.trace_picture import COLOURS, draw_trace, trace_figure
from tests.report.test_trace import recorded


def test_each_track_has_a_row_and_each_span_a_bar():
    figure = trace_figure(recorded(), choose(recorded(), "2"))
    top, bottom = figure.axes
    assert [label.get_text() for label in top.get_yticklabels()] == [
        "learner rank 0",
        "learner rank 0: next batch",
        "learner rank 1",
        "trajectory buffer: weights",
        *(f"rollout worker {i}: engine" for i in (0, 2, 10)),
    ]
    bars = [
        (round(box.x0, 3), round(box.x1, 3), round(box.y0 + box.height / 2), to_hex(colour))
        for bar in top.collections
        for box, colour in [(bar.get_paths()[0].get_extents(), bar.get_facecolor()[0])]
    ]
    assert bars[:4] == [
        (0.0, 6.0, 0, COLOURS["take"]),
        (6.0, 9.0, 0, COLOURS["learn"]),
        (7.0, 8.0, 0, COLOURS["step"]),
        (9.0, 10.0, 0, COLOURS["wait for weights"]),
    ]
    assert bottom.get_xlim() == (0.0, 10.0)
    pyplot.close(figure)


def test_counts_hold_until_the_end_of_the_window():
    figure = trace_figure(recorded(), choose(recorded(), "2"))
    (line,) = figure.axes[1].lines
    assert line.get_label() == "ready"
    assert line.get_xydata().tolist() == [[0.0, 1.0], [1.0, 2.0], [10.0, 2.0]]
    pyplot.close(figure)


def test_evaluations_have_one_colour_and_names_of_one_colour_one_entry():
    figure = trace_figure(recorded(), choose(recorded(), "all"))
    entries = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "evaluation" in entries
    assert "learn, step" in entries
    assert "take, wait for weights" in entries
    pyplot.close(figure)


def test_it_is_drawn(tmp_path):
    draw_trace(recorded(), choose(recorded(), "2-3"), tmp_path / "trace.png")
    assert (tmp_path / "trace.png").stat().st_size > 10_000
