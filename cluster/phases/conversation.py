"""A trajectory as a conversation, for people who read a run's sample episodes."""

from __future__ import annotations

import base64
import io

from report.metrics import Record
from rollout.pictures import Picture
from rollout.renderer import Renderer
from rollout.trajectory import Trajectory

PICTURE_SIDE = 320  # pixels


def conversation(trajectory: Trajectory, renderer: Renderer) -> Record:
    """A trajectory as messages; pictures as data URIs."""
    messages: list[Record] = []
    for segment in trajectory.segments:
        start = 0
        for turn in segment.turns:
            prompt = renderer.decode(segment.token_ids[start : turn.begin].tolist())
            answer = renderer.decode(segment.token_ids[turn.begin : turn.end].tolist())
            messages.append({"role": "user", "content": prompt.strip()})
            if start == 0 and segment.pictures:
                messages[-1]["pictures"] = [_data_uri(picture) for picture in segment.pictures]
            verdict = {"reward": turn.reward, "verdict": turn.message}
            messages.append({"role": "assistant", "content": answer, **verdict})
            start = turn.end
    return {
        "variant": trajectory.variant.removeprefix("eval/"),
        "seed": trajectory.seed,
        "end": trajectory.end,
        "success": trajectory.metrics.get("success", 0.0),
        "reward": trajectory.total_reward,
        "messages": messages,
    }


def _data_uri(picture: Picture) -> str:
    """A picture as a data URI, shrunk for a page."""
    shown = picture.to_pil()
    shown.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    sink = io.BytesIO()
    shown.save(sink, "PNG")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
