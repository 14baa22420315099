"""Tokenises rendered conversations; a control token counts only where the template wrote it.

Input: text of a chat template, in which `quote` has marked the control tokens that messages spell.
Output: token ids. A marked spelling becomes ordinary tokens of its characters.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from configs.text import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUOTE = "\ufdd0"  # a noncharacter, which Unicode keeps for use inside a program


class ControlTokens:
    """The control tokens of a tokenizer and its chat template.

    ids: by spelling: every special token, and every other added one that the template writes
        (Qwen's `<think>` is one).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        """Raises ValueError where the tokenizer has no tokenizer.json to read text by."""
        if not tokenizer.is_fast:
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path} is a {type(tokenizer).__name__} without a "
                "tokenizer.json; text that spells a control token needs one to stay text"
            )
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = {i for i, token in added.items() if token.special}
        written = {i for i, t in added.items() if t.content.strip() and t.content in template}
        tokens = sorted(special | written | set(tokenizer.all_special_ids))
        self.ids = dict(zip(tokenizer.convert_ids_to_tokens(tokens), tokens, strict=True))
        longest_first = sorted(self.ids, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._marked = re.compile(f"{QUOTE}{QUOTE}|{QUOTE}?(?:{self._any.pattern})")
        # No text can hold it, by accident or on purpose.
        self._prefix = f"\ufdd1{secrets.token_hex(8)}"
        try:
            self._reader, self._own_ids = self._renamed()
        except Exception as error:  # the boundary to tokenizers, which raises no other kind
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path}: its tokenizer.json cannot be read with its "
                f"control tokens renamed: {one_line(error)}"
            ) from error

    def spelled(self, text: str) -> list[str]:
        """The control tokens in a text, in order."""
        return self._any.findall(text)

    def quote(self, text: str, keep: Collection[str] = ()) -> str:
        """A message's text with its control tokens marked as text, all but those to keep."""
        return self._any.sub(
            lambda found: found[0] if found[0] in keep else QUOTE + found[0],
            text.replace(QUOTE, QUOTE + QUOTE),
        )

    def replace(self, text: str, token: str, by: Sequence[str]) -> str:
        """A rendered text with other text at each place where the template wrote a token.

        Raises:
            ValueError: there are not as many places as texts.
        """
        places = sum(found == token for found in self._marked.findall(text))
        if places != len(by):
            raise ValueError(
                f"a prompt holds {places} of the picture token {token} for {len(by)} pictures; "
                "the chat template must place one for each"
            )
        texts = iter(by)
        return self._marked.sub(lambda found: next(texts) if found[0] == token else found[0], text)

    def encode(self, text: str) -> list[int]:
        """Token ids of a rendered text."""
        if QUOTE not in text:
            own = self._tokenizer.backend_tokenizer  # half the time of the tokenizer's own call
            if own.truncation or own.padding:  # of another call
                own.no_truncation()
                own.no_padding()
            return list(own.encode(text, add_special_tokens=False).ids)
        renamed = self._marked.sub(self._rename, text)
        encoded = self._reader.encode(renamed, add_special_tokens=False)
        return [self._own_ids.get(token, token) for token in encoded.ids]

    def _rename(self, found: re.Match[str]) -> str:
        unquoted = found[0].removeprefix(QUOTE)
        return unquoted if unquoted != found[0] else self._prefix + found[0]

    def _renamed(self) -> tuple[Tokenizer, dict[int, int]]:
        """The tokenizer with another spelling of its control tokens; its added ids to the own."""
        state = json.loads(self._tokenizer.backend_tokenizer.to_str())
        state["truncation"] = state["padding"] = None  # a conversation is never cut
        new = {old: self._prefix + old for old in self.ids}
        vocabulary, unknown = state["model"]["vocab"], state["model"].get("unk_token")
        state["model"]["unk_token"] = new.get(unknown, unknown)
        if isinstance(vocabulary, dict):
            renamed: object = {new.get(token, token): i for token, i in vocabulary.items()}
        else:  # of a unigram model: pairs of a piece and its score
            renamed = [[new.get(piece, piece), score] for piece, score in vocabulary]
        state["model"]["vocab"] = renamed
        if "merges" in state["model"]:
            state["model"]["merges"] = [
                merge for merge in state["model"]["merges"] if not {*merge, "".join(merge)} & {*new}
            ]
        for token in state["added_tokens"]:
            token["content"] = new.get(token["content"], token["content"])
        reader = Tokenizer.from_str(json.dumps(state))
        own = {token["content"]: int(token["id"]) for token in state["added_tokens"]}
        return reader, {i: own[text] for text, i in reader.get_vocab().items() if text in own}
