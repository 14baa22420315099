"""A model's own processor: tokens and features of pictures agree, and limits are said."""

import json
import shutil

import numpy as np
import pytest
from transformers.processing_utils import ProcessingKwargs

from rollout.pictures import Picture
from rollout.processor import PictureProcessor
from rollout.renderer import Renderer
from tests.support.processors import SIDE, gemma3, internvl


def picture(height=128, width=128, seed=0):
    return Picture.of(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def processor(vision_model):
    return PictureProcessor.load(vision_model)


def test_a_model_of_text_has_none(tiny_model):
    assert PictureProcessor.load(tiny_model) is None


def read_by_itself(renderer, text, pictures):
    """Token ids of a rendered text with pictures, by the library's processor alone."""
    encoded = renderer.processor.processor(
        text=[text], images=[[p.to_pil() for p in pictures]], add_special_tokens=False
    )
    return [int(token) for token in encoded["input_ids"][0]]


@pytest.mark.parametrize("family", ["idefics3", "gemma3"])
def test_a_conversation_has_the_tokens_of_the_processor_itself(family, vision_model):
    """Also where a picture's text joins with what stands beside it."""
    renderer = gemma3() if family == "gemma3" else Renderer.load(vision_model)
    shown, token = [picture(28, 28), picture(14, 28, 1)], renderer.processor.placeholder
    prompt = renderer.prompt("one two", shown)
    text = renderer.tokenizer.decode(prompt.unexpanded_ids)
    assert text.count(token) == 2
    assert prompt.token_ids == read_by_itself(renderer, text, shown)
    said = [
        {"role": "user", "content": "one two", "train": False},
        {"role": "assistant", "content": "two", "train": True},
    ]
    ids, mask = renderer.demonstration(said, shown)
    assert list(ids[: len(prompt.token_ids)]) == prompt.token_ids
    assert list(np.flatnonzero(mask)) == list(range(len(prompt.token_ids), len(ids)))
    spelled = renderer.prompt(f"{token}one two", shown)
    counts = [p.token_ids.count(renderer.processor.token_id) for p in (spelled, prompt)]
    assert counts[0] == counts[1], "what a message spells is no picture"
    assert f"{token}one two" in renderer.tokenizer.decode(spelled.token_ids)


class Fixed:
    """A processor that gives every picture these tokens, and pixel values of its own."""

    valid_processor_kwargs = ProcessingKwargs
    unused_input_names = ()

    def __init__(self, processor, ids, pixels=()):
        self.library, self.ids, self.pixels = processor.processor, ids, pixels
        self.tokenizer, self.image_token = processor.tokenizer, processor.placeholder
        self.image_processor = processor.processor.image_processor

    def __call__(self, **given):
        pixels = self.library(**given)["pixel_values"]
        return {"input_ids": [self.ids], "pixel_values": [*pixels, *self.pixels]}

    def _merge_kwargs(self, *given, **options):
        return self.library._merge_kwargs(*given, **options)


def test_a_picture_whose_text_is_read_otherwise_is_refused(processor):
    words = processor.tokenizer.get_vocab()
    word = next(word for word in words if word.isascii() and word.isalpha() and len(word) > 3)
    ids = processor.tokenizer.convert_tokens_to_ids([*word])  # which it has as one token
    with pytest.raises(ValueError, match=f"tokens of a picture read '{word}', which the tokenizer"):
        PictureProcessor(Fixed(processor, ids)).tokens(picture())


def test_pixel_values_are_those_of_the_tokens():
    """InternVL's processor cuts a picture into tiles, as its image processor alone does not."""
    processor = internvl()
    shown = [picture(SIDE, SIDE), picture(SIDE, 3 * SIDE), picture(2 * SIDE, SIDE)]
    for pictures in ([shown[0]], shown):
        tiles = len(processor.inputs(pictures)["pixel_values"])
        assert 4 * tiles == sum(processor.features(p) for p in pictures)
        assert tiles > len(pictures) or len(pictures) == 1


def test_a_processor_with_other_pixel_values_than_its_image_processor_is_refused(processor):
    encoded = processor.processor(text=[processor.placeholder], images=[picture().to_pil()])
    more = Fixed(processor, processor.tokens(picture()), encoded["pixel_values"])
    with pytest.raises(ValueError, match="128 pixels 98304 values with its tokens and 49152 with"):
        PictureProcessor(more).tokens(picture())


def test_a_size_of_tiles_is_no_limit():
    """One that reads a larger picture in more tokens does not shrink it to its size."""
    assert internvl().features(picture(2 * SIDE, 2 * SIDE)) > 4
    fixed = gemma3().processor
    assert fixed.features(picture(SIDE, SIDE)) == 4
    with pytest.raises(ValueError, match=f"would shrink what is over {SIDE} a side"):
        fixed.tokens(picture(SIDE, 2 * SIDE))


def test_the_token_of_features_is_never_sampled():
    """Gemma 3 has another one than the placeholder of its template."""
    renderer = gemma3()
    assert "num_crops" not in renderer.processor.inputs([picture()]), "no keyword of the model's"
    assert renderer.processor.feature_id == renderer.tokenizer.convert_tokens_to_ids("<soft>")
    assert {renderer.processor.feature_id, renderer.processor.token_id} <= {*renderer.forbidden}


def test_features_are_as_many_as_the_tokens(processor, vision_model):
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(vision_model)
    shown = [picture(seed=i) for i in range(3)]
    features = model.model.get_image_features(**processor.inputs(shown)).pooler_output
    assert features.shape[:2].numel() == sum(processor.features(p) for p in shown) == 48


@pytest.mark.parametrize("count", [0, 2])
def test_one_placeholder_for_each_picture(vision_model, tmp_path, count):
    folder = shutil.copytree(vision_model, tmp_path / "other")
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("'<image>'", f"'{'<image>' * count}'"))
    with pytest.raises(ValueError, match=f"holds {count} of the picture token <image> for 1"):
        Renderer.load(str(folder)).prompt("one", [picture()])


def test_a_picture_that_would_shrink_is_refused(processor):
    with pytest.raises(ValueError, match=r"129 x 128 pixels.*128 a side"):
        processor.tokens(picture(128, 129))


def test_tokens_of_pictures_and_padding_are_never_sampled(vision_model):
    renderer = Renderer.load(vision_model)
    names = set(renderer.tokenizer.convert_ids_to_tokens(renderer.forbidden))
    expected = {"<pad>", "<user>", "<assistant>", "<image>", "<fake_token_around_image>"}
    assert expected | {"<global-img>"} <= names
    assert "<eos>" not in names


def test_a_prompt_with_a_picture_and_its_follow_up(vision_model):
    renderer = Renderer.load(vision_model)
    prompt = renderer.prompt("one", [picture()])
    text = renderer.tokenizer.decode(prompt.unexpanded_ids)
    assert text == "<user><image>one<assistant>"
    assert prompt.token_ids.count(renderer.processor.token_id) == 16
    assert len(prompt.unexpanded_ids) == len(prompt.token_ids) - 18
    answer = renderer.answer("two")
    assert renderer.tokenizer.decode(answer + renderer.follow_up("three", answer)) == (
        "two<eos><user>three<assistant>"
    )


def test_a_processor_of_another_kind_is_refused(vision_model, tmp_path):
    folder = shutil.copytree(vision_model, tmp_path / "other")
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text()) | {"processor_class": "Wav2Vec2Processor"}
    file.write_text(json.dumps(settings))
    with pytest.raises((ValueError, OSError)):
        PictureProcessor.load(folder)
