"""A model's own processor: tokens and features of pictures agree, and limits are said."""

import json
import shutil

import numpy as np
import pytest

from rollout.pictures import Picture
from rollout.processor import PictureProcessor
from rollout.renderer import Renderer


def picture(height=128, width=128, seed=0):
    return Picture.of(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def processor(vision_model):
    return PictureProcessor.load(vision_model)


def test_a_model_of_text_has_none(tiny_model):
    assert PictureProcessor.load(tiny_model) is None


def test_expansion_is_that_of_the_processor_itself(processor):
    shown = [picture(), picture(64, 128, 1)]
    text = f"1 {processor.placeholder} 2 {processor.placeholder} 3"
    encoded = processor.processor(
        text=[text], images=[[p.pixels() for p in shown]], add_special_tokens=False
    )
    sent = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert processor.expand(sent, shown) == list(encoded["input_ids"][0])


def test_features_are_as_many_as_the_tokens(processor, vision_model):
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(vision_model)
    shown = [picture(seed=i) for i in range(3)]
    features = model.model.get_image_features(**processor.inputs(shown)).pooler_output
    assert features.shape[:2].numel() == sum(processor.features(p) for p in shown) == 48


@pytest.mark.parametrize("count", [0, 2])
def test_one_placeholder_for_each_picture(processor, count):
    with pytest.raises(ValueError, match=f"holds {count} of the picture token"):
        processor.expand([processor.token_id] * count, [picture()])


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
