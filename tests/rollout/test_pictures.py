"""Pictures by content: equal pixels, equal keys; nothing is lost on the way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rollout.pictures import Picture, from_arrow, to_arrow

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))


@given(arrays(np.uint8, SHAPES))
def test_pixels_come_back(pixels):
    picture = Picture.of(pixels)
    assert (picture.pixels() == pixels).all()
    assert picture.key == Picture.of(pixels.copy()).key
    (back,) = from_arrow(to_arrow({picture.key: picture})).values()
    assert back.key == picture.key
    assert (back.pixels() == pixels).all()


def test_other_pixels_or_another_shape_have_another_key():
    a = np.zeros((2, 6, 3), np.uint8)
    b = a.copy()
    b[0, 0, 0] = 1
    keys = {Picture.of(x).key for x in (a, b, a.reshape(6, 2, 3), a.reshape(4, 3, 3))}
    assert len(keys) == 4


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), np.zeros((0, 2, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(pixels):
    with pytest.raises(ValueError, match="it must be uint8"):
        Picture.of(pixels)
