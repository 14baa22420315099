"""A slot that dies once its run has finished takes nothing from it."""

from cluster.study.run import run_study
from configs.study import load_study
from tests.cluster.study.test_run import GOOD, Trainer, written


class Hanging(Trainer):
    """Slots whose Ray hangs after the run, so that they end before they can say how it ended."""

    def wait(self):
        name, folder = self.running[-1]
        self.finish(folder)
        self.fails[name] = "failed: its process ended with exit code 0"
        return super().wait()


def test_a_run_that_has_finished_has_whatever_its_slot_says(tmp_path):
    study, slots = load_study(written(tmp_path, GOOD)), Hanging()
    assert run_study(study, slots) == 0
    assert len(slots.asked) == 8
