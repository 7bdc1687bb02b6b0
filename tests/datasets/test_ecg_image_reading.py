"""Pictures read back: the trace within a pixel, the aspect kept, and every damaged file named."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from datasets.sources import DataError
from systems.ecg_multimodal.sources.ecg_image import draw_ecg, read_ecg_image, to_ink, write_picture

RATE = 500.0
TIME = np.arange(5000) / RATE
WAVE = 0.4 * np.sin(2 * np.pi * TIME) + 0.2 * np.sin(2 * np.pi * 3.3 * TIME)
ROWS = 125 - 100 * np.interp((np.arange(2500) + 0.5) / 250, TIME, WAVE - np.median(WAVE))
"""Row of the trace in each column of a picture of 250 x 2500 pixels."""


def centres(ink):
    """Return the row of the ink in each column."""
    return (ink * (np.arange(len(ink))[:, None] + 0.5)).sum(axis=0) / ink.sum(axis=0)


@pytest.fixture
def strip(tmp_path):
    path = tmp_path / "strip.jpg"
    write_picture(path, draw_ecg(WAVE, RATE))
    return path


@pytest.mark.parametrize("height", [250, 128, 64])
def test_the_trace_comes_back_within_a_pixel_of_the_drawing(strip, height):
    ink = read_ecg_image(strip, height)
    assert (ink.shape, ink.dtype) == ((height, 10 * height), np.uint8)
    step = 250 / height
    expected = np.interp((np.arange(10 * height) + 0.5) * step, np.arange(2500) + 0.5, ROWS)
    assert np.abs(centres(ink) * step - expected)[3:-3].max() < 1.0


def test_at_small_size_ink_stays_dark_and_paper_empty(strip):
    ink = read_ecg_image(strip, 64)
    assert (ink.max(axis=0)[3:-3] > 60).all()
    assert np.median(ink) == 0
    assert (ink > 0).sum(axis=0).max() < 14


def test_the_grid_vanishes_in_any_colour():
    paper = draw_ecg(np.full(5000, np.nan), RATE)
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        assert not to_ink(paper[..., order], 64).any()
        assert not to_ink(paper[..., order], 250).any()


@pytest.mark.parametrize("shadow", [0.3, 0.6])
def test_a_shadow_changes_little(shadow):
    plain, shaded = (to_ink(draw_ecg(WAVE, RATE, shadow=value), 64).astype(int) for value in (0.0, shadow))
    inside = (slice(4, -4), slice(4, -4))
    assert np.abs(plain - shaded)[inside].mean() < 1.5
    assert np.abs(centres(shaded) - centres(plain))[4:-4].max() < 0.5


def test_the_aspect_is_kept_and_the_rest_is_paper():
    picture = np.full((200, 300, 3), 255, dtype=np.uint8)
    y, x = np.mgrid[:200, :300]
    picture[(y - 100) ** 2 + (x - 150) ** 2 < 60**2] = 0
    for height, width in ((64, 640), (400, 300), (64, 64)):
        ink = to_ink(picture, height, width)
        rows, columns = (np.flatnonzero(ink.max(axis=axis) > 127) for axis in (1, 0))
        assert abs(len(rows) - len(columns)) <= 1
        assert len(rows) == pytest.approx(120 * min(height / 200, width / 300), abs=2)
        assert (rows.mean(), columns.mean()) == (
            pytest.approx((height - 1) / 2, abs=1),
            pytest.approx((width - 1) / 2, abs=1),
        )
        assert ink[:, 0].max() == ink[0].max() == 0


def test_other_resolutions_of_the_same_paper_look_alike(tmp_path):
    inks = []
    for width in (1250, 2500, 5000):
        path = tmp_path / f"{width}.png"
        write_picture(path, draw_ecg(WAVE, RATE, width=width, height=width // 10))
        inks.append(centres(read_ecg_image(path, 64)))
    np.testing.assert_allclose(inks[0], inks[1], atol=0.3)
    np.testing.assert_allclose(inks[2], inks[1], atol=0.3)


def test_a_camera_that_was_held_upright_is_accepted(strip, tmp_path):
    turned = Image.open(strip).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    turned.save(tmp_path / "turned.png", exif=exif)
    Image.open(strip).save(tmp_path / "upright.png")
    np.testing.assert_array_equal(
        read_ecg_image(tmp_path / "turned.png", 64), read_ecg_image(tmp_path / "upright.png", 64)
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_any_kind_of_picture_is_read(strip, tmp_path, mode):
    grey = np.where(np.asarray(Image.open(strip)).max(axis=2) < 128, 0, 255).astype(np.uint8)
    image = Image.fromarray(grey)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode in ("LA", "RGBA"):
        image = Image.new(mode, image.size, 0)  # black, and transparent where there is paper
        image.putalpha(Image.fromarray(255 - grey))
    else:
        image = image.convert(mode)
    path = tmp_path / "picture.tif"
    image.save(path)
    expected = to_ink(np.repeat(grey[..., None], 3, axis=2), 64)
    np.testing.assert_allclose(read_ecg_image(path, 64), expected, atol=2)


def bomb():
    """Return a PNG of a few bytes that claims 40000 x 40000 pixels."""
    size = struct.pack(">II", 40_000, 40_000) + b"\x08\x02\x00\x00\x00"
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def large():
    return bomb().replace(struct.pack(">II", 40_000, 40_000), struct.pack(">II", 10_000, 9_000))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (lambda jpeg: jpeg[: len(jpeg) // 2], "cannot be read .*truncated"),
        (lambda jpeg: jpeg[:100], "cannot be read"),
        (lambda jpeg: b"", "cannot be read"),
        (lambda jpeg: b"no picture at all", "cannot be read"),
        (lambda jpeg: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "cannot be read"),
        (lambda jpeg: bomb(), "(cannot be read|million)"),
        (lambda jpeg: large(), "(cannot be read|million)"),
    ],
)
def test_a_damaged_file_is_named(strip, content, sentence):
    strip.write_bytes(content(strip.read_bytes()))
    with pytest.raises(DataError, match=rf"strip\.jpg.*{sentence}"):
        read_ecg_image(strip, 64)


def test_an_absent_a_tiny_and_an_empty_picture_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg does not exist"):
        read_ecg_image(tmp_path / "gone.jpg", 64)
    Image.new("RGB", (100, 10)).save(tmp_path / "tiny.png")
    with pytest.raises(DataError, match="100 x 10 pixels, and 16 are the least"):
        read_ecg_image(tmp_path / "tiny.png", 64)
    for colour in ("white", "black", "pink"):
        Image.new("RGB", (2500, 250), colour).save(tmp_path / "empty.png")
        with pytest.raises(DataError, match=r"empty\.png shows nothing but paper"):
            read_ecg_image(tmp_path / "empty.png", 64)


def test_a_size_that_is_none_is_refused():
    with pytest.raises(ValueError, match="0 x 640"):
        to_ink(draw_ecg(WAVE, RATE), 0, 640)


# Grounds --------------------------------------------------------------------------------------------


def on_ground(trace, ground, grid=None):
    """Return the wave in a colour on a ground of a colour, with a grid or without."""
    ink = ((250 - draw_ecg(WAVE, RATE, grid=False).astype(float).mean(axis=2)) / 225).clip(0, 1)[..., None]
    picture = np.zeros((250, 2500, 3)) + np.array(ground)
    if grid is not None:
        picture[::10], picture[:, ::10] = grid, grid
    return Image.fromarray((picture * (1 - ink) + ink * np.array(trace)).round().astype(np.uint8))


def read(folder, image, height=64):
    """Return the ink of a picture and what is said of it."""
    warnings: list[str] = []
    image.save(folder / "picture.png")
    return read_ecg_image(folder / "picture.png", height, None, warnings), warnings


def alike(ink, height=64):
    return np.corrcoef(ink.ravel(), to_ink(draw_ecg(WAVE, RATE), height).ravel())[0, 1]


@pytest.mark.parametrize(
    ("trace", "ground", "grid"),
    [
        ((255, 255, 255), (0, 0, 0), None),
        ((0, 255, 0), (0, 0, 0), (0, 60, 0)),
        ((255, 255, 255), (0, 0, 0), (150, 20, 20)),
        ((40, 170, 60), (15, 20, 25), (30, 40, 40)),
        ((255, 255, 255), (0, 0, 128), None),
        ((255, 255, 0), (90, 90, 90), None),
        ((255, 40, 40), (0, 0, 0), None),
    ],
)
def test_a_light_trace_on_a_dark_ground_is_inverted_and_that_is_said(tmp_path, trace, ground, grid):
    ink, warnings = read(tmp_path, on_ground(trace, ground, grid))
    assert alike(ink) > 0.97
    assert warnings == ["It shows a light trace on a dark ground; it was inverted."]


def test_a_negative_and_a_light_trace_on_nothing_are_inverted(tmp_path, strip):
    ink, warnings = read(tmp_path, ImageOps.invert(Image.open(strip)))
    assert alike(ink) > 0.97 and "inverted" in warnings[0]
    trace = np.asarray(on_ground((255, 255, 255), (0, 0, 0)))[..., 0]
    clear = Image.merge("LA", (Image.new("L", (2500, 250), 255), Image.fromarray(trace)))
    for image in (clear, clear.convert("RGBA")):
        ink, warnings = read(tmp_path, image)
        assert alike(ink) > 0.97 and "inverted" in warnings[0]


@pytest.mark.parametrize("edges", [(200, 60, 300, 90), (0, 0, 0, 200), (400, 400, 400, 400), (0, 150, 0, 0)])
@pytest.mark.parametrize("colour", [(0, 0, 0), (60, 40, 30)])
def test_what_is_dark_around_the_paper_is_cut_off(tmp_path, strip, edges, colour):
    ink, warnings = read(tmp_path, ImageOps.expand(Image.open(strip), edges, colour))
    assert alike(ink) > 0.95
    assert "dark at its edges, is no paper; it was cut off" in warnings[0]


def test_paper_on_a_table_leaves_no_ink_at_its_slanting_edges(tmp_path, strip):
    turned = Image.open(strip).rotate(3, expand=True, fillcolor=(20, 15, 10))
    ink, _ = read(tmp_path, turned)
    assert ink.mean() < 0.03 * 255


@pytest.mark.parametrize("mode", ["plain", "dark", "palette", "16 bit", "12 of 16 bit"])
def test_right_pictures_raise_no_doubt(tmp_path, strip, mode):
    image = Image.open(strip)
    wide = np.asarray(on_ground((0, 0, 0), (255, 255, 255)))[..., 0].astype(np.uint16)
    shown = {
        "plain": image,
        "dark": image.point([round(0.35 * value) for value in range(256)] * 3),
        "palette": image.quantize(32),
        "16 bit": Image.fromarray(wide * 257),
        "12 of 16 bit": Image.fromarray(wide * 16),
    }[mode]
    ink, warnings = read(tmp_path, shown)
    assert warnings == []
    assert alike(ink) > 0.95


def test_what_is_no_trace_is_refused_or_doubted(tmp_path):
    board = (np.indices((250, 2500)) // 9).sum(axis=0) % 2
    with pytest.raises(DataError, match=r"of the picture picture\.png is ink, too much for a trace"):
        read(tmp_path, Image.fromarray((255 * board).astype(np.uint8)))
    dots = np.random.default_rng(0).integers(0, 256, (250, 2500, 3)).astype(np.uint8)
    assert "of its width holds clear ink" in read(tmp_path, Image.fromarray(dots))[1][0]
    with pytest.raises(DataError, match="nothing but paper, or a trace as light as its grid"):
        read(tmp_path, on_ground((0, 0, 255), (255, 255, 255)))
    half = np.asarray(on_ground((0, 0, 0), (255, 255, 255))).copy()
    half[:, 700:] = 255
    assert read(tmp_path, Image.fromarray(half))[1] == [
        "Only 28% of its width holds clear ink: does it show an ECG?"
    ]


def test_pages_and_pictures_on_their_side_are_said(tmp_path, strip):
    image = Image.open(strip)
    image.save(tmp_path / "pages.tif", save_all=True, append_images=[image, image])
    warnings: list[str] = []
    read_ecg_image(tmp_path / "pages.tif", 64, None, warnings)
    assert warnings == ["It has 3 pages, of which the first is read."]
    assert "taller than wide" in read(tmp_path, image.transpose(Image.Transpose.ROTATE_90))[1][0]
