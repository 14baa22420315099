"""The error behind vLLM's words, out of the log that they point to."""

from __future__ import annotations

import os
from contextlib import contextmanager

import pytest

from rollout.engine_log import EngineLog, root_cause

PREFIX = "(EngineCore pid=4863) ERROR 11-26 00:53:10 [core.py:1510]"
# As vLLM 0.32 wrote it, shortened.
LOG = f"""(EngineCore pid=4863) WARNING 11-26 00:53:04 [cpu_worker.py:114] libiomp is not found
{PREFIX} EngineCore failed to start.
{PREFIX} Traceback (most recent call last):
{PREFIX}   File "/vllm/v1/engine/core.py", line 1482, in run_engine_core
{PREFIX}     raise ValueError(
{PREFIX} ValueError: No available memory for the cache blocks. Try increasing it.
Process EngineCore:
Traceback (most recent call last):
  File "/multiprocessing/process.py", line 314, in _bootstrap
    self.run()
RuntimeError: later
"""
# An environment's, which it printed and went on.
HANDLED = "Traceback (most recent call last):\n  File x\nZeroDivisionError: division by zero\n"
WORDS = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
CAUSE = "ValueError: No available memory for the cache blocks. Try increasing it."


def test_the_engines_error_that_came_first_is_the_cause():
    assert root_cause(LOG) == CAUSE
    worker = LOG.replace("(EngineCore pid", "(Worker_TP0 pid").replace(PREFIX, "(Worker pid=1)")
    assert root_cause(worker) == CAUSE
    assert root_cause(HANDLED + LOG + HANDLED) == CAUSE, "whatever environments print"


def test_without_the_engines_prefix_the_last_error_is_the_cause():
    last = "Traceback (most recent call last):\n  File x\nRuntimeError: CUDA out of memory\n"
    assert root_cause(HANDLED + last) == "RuntimeError: CUDA out of memory"


@pytest.mark.parametrize(
    "log",
    ["", "RuntimeError: outside of any traceback", "Traceback (most recent call last):\n  File x"],
)
def test_a_log_without_a_traceback_has_no_error(log):
    assert root_cause(log) is None


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory", True),
        ("vllm.v1.engine.exceptions.EngineDeadError: x", True),
        ("KeyboardInterrupt", True),
        ("    raise ValueError(", False),
        ("The above exception was the direct cause", False),
    ],
)
def test_which_line_names_an_error(line, error):
    log = f"Traceback (most recent call last):\n  File x\n{line}\n"
    assert root_cause(log) == (line if error else None)


@contextmanager
def stderr_in(path):
    """This process's stderr, in a file that already holds another engine's end."""
    kept = os.dup(2)
    with path.open("w+") as file:
        file.write(LOG.replace("ValueError", "OldError"))
        file.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def test_words_that_point_to_the_log_are_replaced_by_what_it_says(tmp_path):
    with stderr_in(tmp_path / "log") as file:
        log = EngineLog()
        file.write(LOG)
        file.flush()
        explained = log.explain(WORDS)
    assert explained == f"{CAUSE} (log: {tmp_path / 'log'})"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (WORDS, "Engine core initialization failed. Failed core proc(s): {}"),
        (DEAD, "EngineCore encountered an issue."),
        ("a\n  b", "a b"),
        ("x" * 400, "x" * 300),
    ],
)
def test_without_an_error_in_the_log_vllms_words_stay(tmp_path, words, shown):
    with stderr_in(tmp_path / "log"):
        explained = EngineLog().explain(words)
    assert explained == f"{shown} (log: {tmp_path / 'log'})"


def test_a_stderr_that_is_no_file_is_not_read():
    kept, (read, write) = os.dup(2), os.pipe()
    try:
        os.dup2(write, 2)
        assert EngineLog().explain(WORDS) == WORDS
    finally:
        os.dup2(kept, 2)
        for end in (kept, read, write):
            os.close(end)


def test_the_end_of_a_long_log_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("rollout.engine_log.MOST", len(LOG))
    with stderr_in(tmp_path / "log") as file:
        log = EngineLog()
        file.write(LOG.replace("ValueError", "FirstError") + LOG)
        file.flush()
        assert log.explain(WORDS) == f"{CAUSE} (log: {tmp_path / 'log'})"


def test_a_log_that_is_gone_leaves_vllms_words(tmp_path):
    with stderr_in(tmp_path / "log"):
        log = EngineLog()
        (tmp_path / "log").unlink()
        assert log.explain(WORDS) == WORDS


def test_a_log_that_was_emptied_is_no_error(tmp_path):
    with stderr_in(tmp_path / "log") as file:
        log = EngineLog()
        file.truncate(0)
        assert log.explain("died") == f"died (log: {tmp_path / 'log'})"
