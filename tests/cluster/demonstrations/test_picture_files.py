"""Pictures of all kinds: pixels as a person sees them, or one sentence."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from cluster.demonstrations.picture_files import MAX_PIXELS, picture_bytes, read_picture


def encoded(picture, kind="PNG", **options):
    sink = io.BytesIO()
    picture.save(sink, kind, **options)
    return sink.getvalue()


def half(mode, left, right, size=(8, 4)):
    """A picture whose left half has one colour and its right half another."""
    picture = Image.new(mode, size, right)
    picture.paste(left, (0, 0, size[0] // 2, size[1]))
    return picture


def ends(data):
    """The colours of the first and the last pixel."""
    pixels = read_picture(data)
    assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
    return pixels[0, 0].tolist(), pixels[-1, -1].tolist()


RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_it_is_turned_as_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: left is below
    data = encoded(half("RGB", RED, BLUE), exif=exif)
    assert read_picture(data).shape == (8, 4, 3)
    assert ends(data) == ([*RED], [*BLUE])
    assert read_picture(encoded(half("RGB", RED, BLUE))).shape == (4, 8, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut(kind):
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = read_picture(encoded(Image.fromarray(grey), kind))
    assert (pixels[..., 0] == grey >> 8).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_transparency_is_white():
    clear, opaque = (0, 0, 0, 0), (0, 0, 255, 255)
    assert ends(encoded(half("RGBA", clear, opaque))) == ([255] * 3, [*BLUE])
    assert ends(encoded(half("LA", (0, 0), (9, 255)))) == ([255] * 3, [9] * 3)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    assert ends(encoded(palette))[0] == [*BLUE]
    assert ends(encoded(palette, transparency=1))[0] == [255] * 3


def test_other_modes_are_read():
    cmyk = half("CMYK", (0, 255, 255, 0), (255, 255, 0, 0))
    (left, right) = ends(encoded(cmyk, "TIFF"))
    assert left[0] > 200 > 60 > left[1]
    assert right[2] > 200 > 60 > right[0]
    assert ends(encoded(half("L", 3, 200))) == ([3] * 3, [200] * 3)
    assert ends(encoded(half("1", 0, 1))) == ([0] * 3, [255] * 3)


def test_a_phones_jpeg_is_its_first_frame():
    """In MPO: the picture, turned as EXIF says, then a preview."""
    picture, preview = half("RGB", RED, BLUE, (64, 32)), Image.new("RGB", (8, 4), "white")
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encoded(picture, "MPO", save_all=True, append_images=[preview], exif=exif)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    pixels = read_picture(data)
    assert pixels.shape == (32, 64, 3)
    assert pixels[0, 0, 2] > 200 > 50 > pixels[0, 0, 0]  # upside down: blue comes first


def bomb(width, height):
    """The head of a PNG of this size, without its pixels."""
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])

    def chunk(name, data):
        return (
            len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
        )

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b""))


FRAMES = [Image.new("L", (4, 4), shade) for shade in (0, 90)]
GOOD = encoded(half("RGB", RED, BLUE, (64, 64)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cannot be read"),
        (b"no picture", "cannot be read: Pillow knows no such format$"),
        (GOOD[: len(GOOD) // 2], "cannot be read"),
        (GOOD[:20] + b"xx" + GOOD[22:], "cannot be read"),
        (bomb(10_000, 9_000), r"is 10000 x 9000 pixels; at most 89,478,485 are read"),
        (bomb(60_000, 60_000), "cannot be read: .*decompression bomb"),
        (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "has 2 frames"),
        (encoded(Image.new("F", (4, 4), 0.5), "TIFF"), "is of mode F, 32 bits"),
        (encoded(Image.new("I", (4, 4), 70000), "TIFF"), "is of mode I, 32 bits"),
    ],
)
def test_what_has_no_such_pixels_is_refused(data, words):
    with pytest.raises(ValueError, match=rf"^a picture {words}") as error:
        read_picture(data)
    assert "\n" not in str(error.value)


def test_the_bound_is_pillows_own():
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS


def test_bytes_paths_and_the_image_feature(tmp_path):
    (tmp_path / "a.png").write_bytes(GOOD)
    absolute = str(tmp_path / "a.png")
    for picture in (GOOD, "a.png", absolute, {"bytes": GOOD, "path": None}):
        assert picture_bytes(picture, tmp_path) == GOOD
    assert picture_bytes({"bytes": GOOD, "path": "absent.png"}, tmp_path) == GOOD
    assert picture_bytes({"bytes": None, "path": "a.png"}, tmp_path) == GOOD


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (3, "a picture is of type int; it must be bytes or a path"),
        (None, "a picture is of type NoneType"),
        ("", "a picture is of type str"),
        ({"url": "x"}, "a picture is of type NoneType"),
        ("absent.png", "picture absent.png cannot be read: .*No such file"),
        ("a\0b", "picture a.b cannot be read"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, picture, words):
    with pytest.raises(ValueError, match=words):
        picture_bytes(picture, tmp_path)
