"""A token generator that gives prepared answers."""

from rollout.engine import Completion


def expanded(processor, prompt_ids, pictures):
    """Tokens of a prompt with each picture's own in its place, as vLLM puts them there."""
    left = iter(pictures)
    return [
        token
        for i in prompt_ids
        for token in (processor.tokens(next(left)) if i == processor.token_id else [i])
    ]


class ScriptedEngine:
    """A `rollout.episode.TokenGenerator`: prepared token ids in order; remembers its prompts.

    expand: the processor by which it reads pictures, as a real engine does by its own.
    """

    def __init__(self, answers):
        self.answers, self.prompts, self.expand = list(answers), [], None

    async def generate(self, prompt_ids, *, max_tokens, temperature, seed, pictures=()):
        self.prompts.append(list(prompt_ids))
        ids = self.answers.pop(0)
        read = expanded(self.expand, prompt_ids, pictures) if self.expand else prompt_ids
        return Completion(read, ids, [-0.5] * len(ids), [0] * len(ids), True)
