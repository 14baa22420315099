"""A client of the job server: other versions, missing tokens and silence are refused in time."""

import http.server
import json
import platform
import socket
import threading

import pytest
import ray

from cluster.launch import job_server
from cluster.launch.job_server import connect
from configs.load import ConfigError


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
        connect(url)


def test_the_same_versions_are_taken(server):
    major, minor, _ = platform.python_version_tuple()
    known = {"rayVersion": ray.__version__, "pythonVersion": f"{major}.{minor}.99"}
    url = server(200, json.dumps({"ray_version": ray.__version__, "data": known}))
    assert connect(url).get_address() == url


def test_a_missing_token_is_said(server):
    with pytest.raises(ConfigError, match="wants a token that this user does not have"):
        connect(server(401, "Unauthorized: Missing authentication token"))


def test_what_is_no_job_server_is_refused(server):
    with pytest.raises(ConfigError, match=r"no Ray job server answers at http://127.0.0.1"):
        connect(server(200, "hello"))
    with pytest.raises(ConfigError, match="must be the job server's address"):
        connect("127.0.0.1:6379")


@pytest.mark.parametrize("listening", [False, True])
def test_an_address_where_nobody_answers_is_refused_in_time(listening, own_variables, monkeypatch):
    assert job_server.ANSWER_S < 10
    monkeypatch.setattr(job_server, "ANSWER_S", 1.0)
    with socket.socket() as silent:  # listens and never says a word, or does not
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        if listening:
            silent.listen()
        with pytest.raises(ConfigError, match=f"no Ray job server answers at .*:{port}"):
            connect(f"http://127.0.0.1:{port}")
