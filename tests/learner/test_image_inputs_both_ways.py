"""Pictures that a model reads in both directions, as Gemma 3 does: packed as alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from learner import batch
from learner.batch import Sequence
from learner.image_inputs import ImageInputs
from rollout.pictures import Picture
from rollout.renderer import Renderer
from tests.support.processors import SIDE, gemma3


def random_gemma(renderer: Renderer) -> Gemma3ForConditionalGeneration:
    """A tiny Gemma 3 for a renderer's tokens, one of its layers with a sliding window."""
    torch.manual_seed(0)
    ids = renderer.tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(renderer.tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": SIDE // 2,
    }
    cfg = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=ids("<boi>"),
        eoi_token_index=ids("<eoi>"),
        image_token_index=ids("<soft>"),
    )
    model = Gemma3ForConditionalGeneration(cfg).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model


def shown_to_gemma(renderer: Renderer) -> list[Sequence]:
    rng = np.random.default_rng(0)
    sequences = []
    for words in ("one", "two one two"):
        picture = Picture.of(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
        ids = np.array(renderer.prompt(words, [picture]).token_ids)
        sequences.append(Sequence(ids, np.arange(len(ids)) == len(ids) - 1, pictures=(picture,)))
    return sequences


def test_a_model_that_reads_pictures_in_both_directions_does_so_packed() -> None:
    """As transformers does with the processor's own marks, one sequence at a time."""
    renderer = gemma3()
    model = random_gemma(renderer)
    sequences = shown_to_gemma(renderer)
    images = ImageInputs(renderer.processor, model)
    (packed,) = batch.microbatches(sequences, 128, "flat")
    ordered = [sequences[i] for i in packed.order]
    with torch.no_grad():
        together = model(
            input_ids=packed.token_ids,
            position_ids=packed.position_ids,
            use_cache=False,
            **images.model_inputs(packed, torch.device("cpu")),
        ).logits[0]
        start = 0
        for sequence in ordered:
            images.check_alignment(sequence)
            ids = torch.from_numpy(sequence.token_ids)[None]
            marks = renderer.processor.processor.create_mm_token_type_ids(ids.tolist())
            pixels = renderer.processor.inputs(sequence.pictures)
            alone, causal = (
                model(input_ids=ids, token_type_ids=types, use_cache=False, **pixels).logits[0]
                for types in (torch.tensor(marks), None)
            )
            own = together[start : start + ids.shape[1]]
            assert (own - alone).abs().max() < 1e-4
            assert (own - causal).abs().max() > 1e-2
            start += ids.shape[1]


def test_features_are_counted_where_the_placeholder_is_another_token() -> None:
    """A sequence that lost some of its picture's tokens, not the one that stands for it."""
    renderer = gemma3()
    sequence = shown_to_gemma(renderer)[0]
    images = ImageInputs(renderer.processor, random_gemma(renderer))
    (at, *_) = np.flatnonzero(sequence.token_ids == renderer.processor.feature_id)
    ids, mask = (np.delete(a, at) for a in (sequence.token_ids, sequence.action_mask))
    with pytest.raises(ValueError, match="has 3 picture tokens and 1 pictures with 4 features"):
        images.check_alignment(replace(sequence, token_ids=ids, action_mask=mask))


def test_flash_attention_that_reads_in_one_direction_is_refused() -> None:
    renderer = gemma3()
    model = random_gemma(renderer)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"Gemma3.* both directions.*model.attention must be sdpa"):
        ImageInputs(renderer.processor, model)
