"""What stands in the place of a comparison that cannot be made."""

from configs.primary import Primary
from report.study.findings import findings
from report.study.results import Arm
from tests.report.study.drawing import point, study_of


def test_what_is_never_measured_is_not_called_unfinished() -> None:
    sft, rl = Arm("sft", "sft", None, None, None), Arm("rl", "rl", "sft", None, None)
    points = [point("sft", "sft", 4, 0.9), point("rl", "ppo", 5, 0.7)]
    pair = Primary("rl", "sft", "in", "recognition")
    study = study_of(points, sft, rl, primary=(pair,))
    assert findings(study).waiting == {pair: "never measured: recognition of both on in"}
    unfinished = study_of(points, sft, rl, primary=(pair,), finished={("sft", 0)})
    assert findings(unfinished).waiting == {pair: "not finished"}
