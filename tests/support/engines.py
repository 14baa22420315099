"""A token generator that gives prepared answers."""

from rollout.engine import Completion


class ScriptedEngine:
    """A `rollout.episode.TokenGenerator`: prepared token ids in order; remembers its prompts.

    expand: the processor by which it reads pictures, as a real engine does by its own.
    """

    def __init__(self, answers):
        self.answers, self.prompts, self.expand = list(answers), [], None

    async def generate(self, prompt_ids, *, max_tokens, temperature, seed, pictures=()):
        self.prompts.append(list(prompt_ids))
        ids = self.answers.pop(0)
        read = self.expand.expand(prompt_ids, pictures) if self.expand else prompt_ids
        return Completion(read, ids, [-0.5] * len(ids), [0] * len(ids), True)
