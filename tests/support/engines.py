"""A token generator that gives prepared answers."""

from rollout.engine import Completion


class ScriptedEngine:
    """A `rollout.episode.TokenGenerator`: prepared token ids in order; remembers its prompts."""

    def __init__(self, answers):
        self.answers, self.prompts = list(answers), []

    async def generate(self, prompt_ids, *, max_tokens, temperature, seed, pictures=()):
        self.prompts.append(list(prompt_ids))
        ids = self.answers.pop(0)
        return Completion(prompt_ids, ids, [-0.5] * len(ids), [0] * len(ids), True)
