"""How the suite's files are ordered and shared out to processes, and what they share there."""

import re
from types import SimpleNamespace

from configs.paths import ROOT
from tests import conftest
from tests.conftest import LONG, TOGETHER, place

TESTS = ROOT / "tests"


def test_every_named_file_is_there():
    assert [name for name in LONG if not (TESTS / name).exists()] == []


def test_files_that_share_a_start_come_one_after_another_in_one_process():
    options = SimpleNamespace(getoption={"dist": "loadfile"}.get, getvalue=lambda name: ["popen"])
    unit = conftest.pytest_xdist_make_scheduler(options, None)._split_scope
    for what, files in TOGETHER.items():
        places = [place(f"tests/{file}::test_it[1]") for file in files]
        assert places == list(range(places[0], places[0] + len(files)))
        assert {unit(f"tests/{file}::test_it[1]") for file in files} == {what}
    assert unit("tests/test_docs.py::test_it") == "tests/test_docs.py"
    assert place("tests/end_to_end/test_train.py::test_it") == 0
    assert place("tests/test_docs.py::test_it") == len(LONG)


def test_no_other_file_starts_the_shared_ray():
    uses = re.compile(r'usefixtures\("local_ray"\)|\(local_ray[,)]')
    files = [file for file in TESTS.rglob("test_*.py") if file.name != "test_order.py"]
    users = {str(file.relative_to(TESTS)) for file in files if uses.search(file.read_text())}
    assert users == {*TOGETHER["a Ray"]}


def test_the_shared_ray_lives_while_the_next_test_needs_it():
    ended = []
    conftest.RAY.callback(ended.append, "ended")
    conftest.pytest_runtest_teardown(SimpleNamespace(fixturenames=["tmp_path", "local_ray"]))
    assert ended == []
    conftest.pytest_runtest_teardown(SimpleNamespace(fixturenames=["tmp_path"]))
    assert ended == ["ended"]
    conftest.RAY.callback(ended.append, "ended")
    conftest.pytest_runtest_teardown(None)
    assert ended == ["ended"] * 2
