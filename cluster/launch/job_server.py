"""The job server of a Ray cluster: a client whose every request has a deadline.

Input: an address. Output: a connected client, or one sentence that says why there is none.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cluster.failures import first_line
from cluster.placement.nodes import same_versions
from configs.load import ConfigError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient
    from requests import Response

ADDRESS = "http://127.0.0.1:8265"  # where `ray start --head` puts its job server
CONNECT_S, ANSWER_S, UPLOAD_S = 4.0, 8.0, 120.0
NOISY = (  # loggers of Ray that would add lines to an error's one
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env",
)


def connect(address: str | None) -> JobSubmissionClient:
    """A client of the job server, once it has answered and is known to run the same versions.

    Raises:
        ConfigError: what was given is no address of a job server, nobody answers there in time,
            it wants another token, or the cluster runs another Ray or Python.
    """
    variables = (os.environ.get(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
    url = address or next(filter(None, variables), ADDRESS)
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url}: must be the job server's address, such as http://HEAD:8265")
    os.environ["RAY_API_SERVER_ADDRESS"] = url  # Ray lets its variables win over the argument
    _listening(url)
    import requests
    from ray.exceptions import AuthenticationError

    client_class = _client_class()
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        client = client_class(url)
        there = client._do_request("GET", "/api/v0/cluster_metadata").json()["data"]
        same_versions(url, there["rayVersion"], there["pythonVersion"])
    except AuthenticationError as error:
        raise ConfigError(
            f"{url} wants a token that this user does not have ({first_line(error)}): put what "
            "`ray get-auth-token` says on the head into RAY_AUTH_TOKEN"
        ) from error
    except ConfigError:
        raise
    except (requests.RequestException, RuntimeError, OSError, ValueError, KeyError) as error:
        raise ConfigError(f"no Ray job server answers at {url}: {first_line(error)}") from error
    return client


def _listening(url: str) -> None:
    """Refuse an address where nothing listens, before Ray is imported."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Ray job server answers at {url}: {first_line(error)}") from error


def _client_class() -> type[JobSubmissionClient]:
    """Ray's client, with a deadline on every request."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Response:
            limit = ANSWER_S if method == "GET" else UPLOAD_S
            return super()._do_request(method, endpoint, timeout=(CONNECT_S, limit), **options)

    return Client


def use_token() -> None:
    """Have Ray send this user's token, where there is one.

    To be called before Ray is imported, for it reads the mode then.
    """
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if "RAY_AUTH_TOKEN" in os.environ or file.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
