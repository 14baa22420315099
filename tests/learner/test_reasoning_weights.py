"""Tokens before an answer's last field weigh less; an answer without fields weighs all ones."""

from __future__ import annotations

import numpy as np

from learner.reasoning_weights import reasoning_weights

PIECES = ['{"cards": ', "[1, 2]", ', "form', 'ula": ', '"1+2"', "}", "<end>"]


def decode(ids):
    return "".join(PIECES[i] for i in ids)


def test_weights_change_at_the_token_that_holds_the_last_key():
    weights = reasoning_weights(range(7), decode, 0.5)
    assert weights.dtype == np.float32
    assert weights.tolist() == [0.5, 0.5, 1, 1, 1, 1, 1]


def test_no_field_no_thought():
    assert reasoning_weights([1, 4], decode, 0.5).tolist() == [1, 1]
    assert reasoning_weights([], decode, 0.5).tolist() == []
