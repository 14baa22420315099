"""TRL's side of benchmarks.peers: GRPO with Hugging Face's generate, by the peer's Python.

Input: a job file, `peer_job` of benchmarks/peers/grpo.py as JSON. Output: a JSON line at the end of
each update (time, mean reward, sampled tokens), and of each evaluation, whose seconds are nobody's.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from envs.registry import make, register


class Clock(TrainerCallback):
    """Prints a line at the end of each update, which is `steps` optimizer steps."""

    def __init__(self, steps: int, episodes: int) -> None:
        self._steps, self._episodes = steps, episodes

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """The trainer logs once an update, after its last step."""
        if "reward" in logs:
            line = {"update": state.global_step // self._steps, "time": time.time()}
            sampled = float(logs["completions/mean_length"]) * self._episodes
            line |= {"reward": float(logs["reward"]), "tokens": sampled}
            print(json.dumps(line), flush=True)


class Judge(TrainerCallback):
    """Plays greedily every `every_s` seconds of training, and ends it after `budget_s`."""

    def __init__(self, job: dict[str, Any], env: Any, tokenizer: Any) -> None:
        self._job, self._env, self._tokenizer = job, env, tokenizer
        self._begin, self._judged = 0.0, 0.0  # moved on by what each evaluation takes; seconds

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        """Before the first update."""
        self._begin = time.monotonic()
        self._print(model, 0)

    def on_log(self, _: Any, state: Any, control: Any, logs: Any, model: Any, **__: Any) -> None:
        """The end of an update."""
        if "reward" not in logs:
            return
        seconds = time.monotonic() - self._begin
        ended = seconds >= self._job["budget_s"]
        if ended or seconds >= self._judged + self._job["every_s"]:
            self._judged = seconds
            self._print(model, state.global_step)
        control.should_training_stop |= ended

    def _print(self, model: Any, step: int) -> None:
        stopped = time.monotonic()
        solved = greedy(model, self._tokenizer, self._env, self._job)
        line = {"step": step, "seconds": stopped - self._begin, "greedy": solved}
        print(json.dumps(line), flush=True)
        self._begin += time.monotonic() - stopped


def greedy(model: Any, tokenizer: Any, env: Any, job: dict[str, Any]) -> float:
    """Share of the job's evaluation episodes that greedy answers solve."""
    rewards, asked = list[float](), job["evaluation"]
    tokenizer.padding_side = "left"
    model.eval()
    for first in range(0, len(asked), 250):
        some = asked[first : first + 250]
        inputs = tokenizer([p["text"] for p in some], return_tensors="pt", padding=True)
        with torch.inference_mode():
            out = model.generate(
                **inputs, max_new_tokens=job["answer_tokens"], do_sample=False, temperature=None
            )
        answers = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], True)
        for episode, answer in zip(some, answers, strict=True):
            env.reset(seed=episode["seed"])
            rewards.append(env.step(answer)[4]["metrics"]["success"])
    model.train()
    return sum(rewards) / len(rewards)


def main() -> None:
    """Run the job whose file is the first argument."""
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    register()
    env = make(job["env"], job["settings"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"], trust_remote_code=False)
    read = tokenizer(text=[p["text"] for p in job["prompts"]])["input_ids"]
    assert read == [p["token_ids"] for p in job["prompts"]], "both sides read the same tokens"

    def reward(completions: list[str], seed: list[int], **_: object) -> list[float]:
        rewards = []
        for answer, episode in zip(completions, seed, strict=True):
            env.reset(seed=episode)
            rewards.append(float(env.step(answer)[1]))
        return rewards

    steps = job["epochs"] * job["episodes"] // job["minibatch"]
    config = GRPOConfig(
        output_dir=job["folder"],
        use_cpu=True,
        bf16=job["dtype"] == "bfloat16",
        model_init_kwargs={"dtype": job["dtype"]},
        per_device_train_batch_size=job["minibatch"],
        steps_per_generation=job["episodes"] // job["minibatch"],
        num_iterations=job["epochs"],
        num_generations=job["group"],
        max_steps=job["updates"] * steps,
        max_completion_length=job["answer_tokens"],
        learning_rate=job["lr"],
        lr_scheduler_type="constant",
        shuffle_dataset=False,
        gradient_checkpointing=False,  # on by default: slower
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=steps,
    )
    rows = [{"prompt": p["text"], "seed": p["seed"]} for p in job["prompts"]]
    trainer = GRPOTrainer(
        model=job["model"],
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Clock(steps, job["episodes"])],
    )
    if job["evaluation"]:
        trainer.add_callback(Judge(job, make(job["env"], job["settings"]), tokenizer))
    trainer.train()


if __name__ == "__main__":
    main()
