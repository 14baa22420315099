"""Run folders and printed errors for the tests of commands."""

from configs.load import dump, load


def moved_run(folder):
    """A run folder that was moved: its written name and root are another's."""
    run = folder / "2026-11-23"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(dump(load("gp_l_debug", ["name=old"])))
    return run


def said(capsys):
    """The one line that was printed to stderr."""
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("cardinal")
    return err
