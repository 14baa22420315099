"""Submitting: what is refused at once, what is shipped, and how a log is followed."""

import http.server
import json
import platform
import socket
import threading
import time
import zipfile
from types import SimpleNamespace

import pytest
import ray

from cluster.cli import main
from cluster.failures import RunFailure
from cluster.launch import submit
from configs.load import ConfigError, dump, load
from tests.end_to_end.test_train import ROOT

ABSOLUTE = ("name=job", "cluster.root=/shared/runs")


@pytest.fixture
def own_variables(monkeypatch):
    """Ray's variables are as they were before, whatever a client sets."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "unset")
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def server(own_variables):
    """Starts a job server that answers every question with one status and text."""
    started = []

    def start(status, text):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=found.serve_forever, daemon=True).start()
        started.append(found)
        return f"http://127.0.0.1:{found.server_port}"

    yield start
    for each in started:
        each.shutdown()
        each.server_close()


# --- what cannot be submitted ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["ppo.updats=3"], "ppo.updats: there is no such key; the nearest is updates"),
        (["env.settings.hand=2"], "hand"),
        (["cluster.root=runs"], "cluster.root=runs: must be absolute"),
        (["model.path=models/x"], "model.path=models/x: must be absolute"),
        (["sft.data=demos"], "sft.data=demos: must be absolute"),
    ],
)
def test_a_run_that_cannot_be_is_refused_here(overrides, words):
    with pytest.raises(ConfigError, match=words):
        submit.validate("gp_l_debug", [*ABSOLUTE, *overrides])


def test_a_model_of_the_hub_is_no_relative_path():
    named = [*ABSOLUTE, "model.path=Qwen/Qwen2.5-0.5B", "env.settings.prompt_style=full"]
    assert submit.validate("gp_l_debug", named).model.path == "Qwen/Qwen2.5-0.5B"


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (("2.41.0", platform.python_version()), r"the cluster runs Ray 2\.41\.0 and this side Ray"),
        ((ray.__version__, "3.9.7"), r"runs Python 3\.9\.7 and this side Python 3\.1"),
    ],
)
def test_other_versions_are_refused(there, words, server):
    known = {"rayVersion": there[0], "pythonVersion": there[1]}
    url = server(200, json.dumps({"ray_version": there[0], "data": known}))
    with pytest.raises(ConfigError, match=words):
        submit.connect(url)


def test_the_same_versions_are_taken(server):
    major, minor, _ = platform.python_version_tuple()
    known = {"rayVersion": ray.__version__, "pythonVersion": f"{major}.{minor}.99"}
    url = server(200, json.dumps({"ray_version": ray.__version__, "data": known}))
    assert submit.connect(url).get_address() == url


def test_a_missing_token_is_said(server):
    with pytest.raises(ConfigError, match="wants a token that this user does not have"):
        submit.connect(server(401, "Unauthorized: Missing authentication token"))


def test_what_is_no_job_server_is_refused(server):
    with pytest.raises(ConfigError, match=r"no Ray job server answers at http://127.0.0.1"):
        submit.connect(server(200, "hello"))
    with pytest.raises(ConfigError, match="must be the job server's address"):
        submit.connect("127.0.0.1:6379")


@pytest.mark.parametrize("listening", [False, True])
def test_an_address_where_nobody_answers_is_refused_in_time(listening, own_variables):
    with socket.socket() as silent:  # listens and never says a word, or is closed
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        silent.listen() if listening else silent.close()
        begin = time.monotonic()
        with pytest.raises(ConfigError, match=f"no Ray job server answers at .*:{port}"):
            submit.connect(f"http://127.0.0.1:{port}")
        assert time.monotonic() - begin < 10


# --- what is shipped ------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    for name, text in (
        (".gitignore", "runs/\n*.pyc\n"),
        (".rayignore", "videos/\n"),
        ("configs/mine.yaml", "seed: 1\n"),
        ("cluster/cli.py", "pass\n"),
        ("cluster/cli.pyc", "x"),
        (".git/objects/pack", "x" * 999),
        ("runs/old/model.bin", "x" * 999),
        ("videos/a.mp4", "x" * 999),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_what_is_measured_is_what_ray_packs(checkout, tmp_path):
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True,
                   excludes=get_runtime_env_default_excludes())  # fmt: skip
    packed = {i.filename: i.file_size for i in zipfile.ZipFile(package).infolist()}
    files = {str(path): size for path, size in submit.shipped(checkout).items()}
    assert files == {name: size for name, size in packed.items() if not name.endswith("/")}
    assert set(files) == {".gitignore", ".rayignore", "configs/mine.yaml", "cluster/cli.py"}


def test_the_checkout_itself_is_small():
    assert sum(submit.shipped(ROOT).values()) < 16 * 2**20
    assert submit.ship(ROOT / "configs" / "gp_l.yaml") == "configs/gp_l.yaml"


def test_a_large_working_directory_is_refused_with_its_largest_entries(checkout):
    for name, mib in (("data/a.bin", 40), ("data/b.bin", 20), ("weights.bin", 30)):
        (checkout / name).parent.mkdir(exist_ok=True)
        with (checkout / name).open("wb") as file:
            file.truncate(mib * 2**20)
    words = r"has 90 MiB to ship, over 64: data/ 60.0 MiB, weights.bin 30.0 MiB, .*\.rayignore"
    with pytest.raises(ConfigError, match=words):
        submit.ship(checkout / "configs/mine.yaml", checkout)
    (checkout / "data" / ".gitignore").write_text("*\n")
    assert submit.ship(checkout / "configs/mine.yaml", checkout) == "configs/mine.yaml"


@pytest.mark.parametrize("name", ["../mine.yaml", "runs/mine.yaml"])
def test_a_configuration_that_is_not_shipped_is_refused(checkout, name):
    (checkout / name).write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: is not shipped; it must lie in"):
        submit.ship(checkout / name, checkout)


def test_variables_are_named_or_given(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(submit, "submit", lambda *given: seen.append(given) or 0)
    monkeypatch.setenv("MINE", "here")
    assert main(["submit", "gp_l", "--env", "MINE", "--env", "A=b=c", "seed=2"]) == 0
    assert seen == [("gp_l", ["seed=2"], None, "python", {"MINE": "here", "A": "b=c"}, True)]
    assert main(["submit", "gp_l", "--env", "NO_SUCH_VARIABLE"]) == 2
    assert "--env NO_SUCH_VARIABLE: is not set here" in capsys.readouterr().err


# --- going on -------------------------------------------------------------------------------


def test_a_run_goes_on_only_as_it_was_begun(tmp_path):
    at = f"cluster.root={tmp_path}"
    cfg = load("gp_l_debug", ["name=mine", at])
    assert not submit.begun(cfg)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text(dump(load("gp_l_debug", ["name=mine"])))
    assert submit.begun(cfg)  # a folder that was moved is the same run
    with pytest.raises(ConfigError, match=r"was begun with ppo.updates=3, and this is 5; choose"):
        submit.begun(load("gp_l_debug", ["name=mine", at, "ppo.updates=5"]))
    with pytest.raises(ConfigError, match=r"begun with eval.variants={.*}, and this is {.*20}"):
        submit.begun(load("gp_l_debug", ["name=mine", at, "eval.variants.train.target=20"]))


@pytest.mark.parametrize("there", [False, True])
def test_train_resumes_what_is_there_and_starts_what_is_not(there, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("cluster.train.train", lambda cfg, resume: seen.append(resume) or 0)
    arguments = ["gp_l_debug", "name=mine", f"cluster.root={tmp_path}"]
    if there:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "config.yaml").write_text(dump(load("gp_l_debug", arguments[1:])))
    assert main(["train", *arguments, "--resume"]) == 0
    assert seen == [there]
    if there:  # without the option a folder that is taken is refused, as ever
        assert main(["train", *arguments]) == 2
        assert len(seen) == 1


class FakeClient:
    """A job with a log of three pieces, whose connection breaks after the second, once."""

    def __init__(self, status="SUCCEEDED", code=0, breaks=1):
        self.status, self.code, self.breaks = status, code, breaks

    async def tail_job_logs(self, name):
        yield "one\n"
        yield "two\n"
        if self.breaks:
            self.breaks -= 1
            raise RuntimeError("WebSocket connection closed unexpectedly")
        yield "three\n"

    def get_job_info(self, name):
        from ray.job_submission import JobStatus

        return SimpleNamespace(
            status=JobStatus(self.status), driver_exit_code=self.code, message="the end",
            submission_id="x", metadata={submit.RUN: "/runs/a"},
        )  # fmt: skip

    def list_jobs(self):
        return [self.get_job_info("x")]

    def get_address(self):
        return "http://head:8265"


def test_a_lost_connection_repeats_and_loses_no_line(capsys):
    assert submit.tail(FakeClient(), "x") == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\njob x: succeeded, the end\n"


def test_ctrl_c_leaves_the_job_alone(capsys):
    class Interrupted(FakeClient):
        async def tail_job_logs(self, name):
            yield "one\n"
            raise KeyboardInterrupt

    assert submit.tail(Interrupted(), "x") == 130
    said = capsys.readouterr()
    assert said.out == "one\n"
    assert "job x goes on; `cardinal job stop x` ends it" in said.err


def test_a_server_that_stays_away_is_given_up(monkeypatch):
    monkeypatch.setattr(submit, "LOST_S", 0.0)
    with pytest.raises(RunFailure, match=r"lost http://head:8265 .*`cardinal job logs x`"):
        submit.tail(FakeClient(breaks=9), "x")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("FAILED", 2, 2), ("FAILED", -9, 1), ("FAILED", None, 1), ("STOPPED", None, 1)],
)
def test_the_exit_code_is_the_jobs(status, code, expected):
    assert submit.tail(FakeClient(status, code, breaks=0), "x") == expected


def test_a_run_is_not_submitted_twice_at_once():
    submit._refuse_a_running_twin(FakeClient("SUCCEEDED"), "/runs/a")
    submit._refuse_a_running_twin(FakeClient("RUNNING"), "/runs/b")
    with pytest.raises(ConfigError, match="is that of job x, which is running; stop it first"):
        submit._refuse_a_running_twin(FakeClient("RUNNING"), "/runs/a")
