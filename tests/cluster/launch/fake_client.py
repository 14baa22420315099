"""A job server's client whose job and log are data."""

from types import SimpleNamespace

from cluster.launch.submit import RUN


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
            status=JobStatus(self.status),
            driver_exit_code=self.code,
            message="the end",
            submission_id="x",
            metadata={RUN: "/runs/a"},
        )

    def list_jobs(self):
        return [self.get_job_info("x")]

    def get_address(self):
        return "http://head:8265"
