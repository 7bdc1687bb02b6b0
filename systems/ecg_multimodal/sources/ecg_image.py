"""Draw an ECG on grid paper; `systems.ecg_multimodal.sources.ecg_image` reads such pictures.

Paper runs at 25 mm/s and 10 mm/mV. A strip shows ten seconds of one lead: 250 mm x 25 mm, at 10 pixels a
millimetre 2500 x 250 pixels. A sheet shows twelve leads in three rows of four, 2.5 s each, and a rhythm
strip: 250 mm x 100 mm. A picture drawn from a signal holds nothing that the signal does not hold.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy import ndimage

from common.files import replacing
from datasets.ecg import LEADS
from datasets.sources import DataError
from systems.ecg_multimodal.sources.picture_ground import lightest_colour, on_paper

Picture = NDArray[np.uint8]

PAPER_SECONDS = 10.0
"""Time that the width of a picture stands for, seconds."""
_MM_PER_SECOND = 25.0
_MM_PER_MILLIVOLT = 10.0
PAPER, GRID, INK = (255, 250, 247), (240, 150, 150), (25, 25, 35)
"""Colours of the paper, of its grid and of the trace: red, green, blue."""
_PEN_MM, _FINE_LINE_MM, _BOLD_LINE_MM = 0.3, 0.1, 0.2
"""Width of the trace, of the 1 mm lines and of the 5 mm lines, millimetres."""
MARGIN = 0.04
"""Share of the height, above and below, that a trace is shifted to leave free."""
SHEET = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"), ("II",))
_SMALLEST_SIDE = 16
"""Pixels below which the shorter side of a picture cannot show an ECG."""


def draw_ecg(
    signal_mv: ArrayLike,
    sampling_rate: float,
    *,
    width: int = 2500,
    height: int = 250,
    rotation: float = 0.0,
    shadow: float = 0.0,
    noise: float = 0.0,
    text: str = "",
    rng: np.random.Generator | None = None,
    grid: bool = True,
) -> Picture:
    """Draw the first ten seconds of one lead as a strip of paper.

    The median lies at half the height, or as near to it as the trace fits; what is taller than the paper is
    cut off, as on paper.

    Parameters
    ----------
    signal_mv : array_like, shape (T,)
        Millivolts; NaN lifts the pen.
    sampling_rate : float
        Hertz.
    width, height : int
        Pixels. The width stands for ten seconds (250 mm); the same pixels a millimetre apply upwards.
    rotation : float
        Degrees, counterclockwise, as a sheet lies askew in a scanner.
    shadow : float
        Darkening at the darkest edge, 0 none to 1 black; it fades across the picture.
    noise : float
        Standard deviation of grey noise, as a share of full scale.
    text : str
        Written at the upper left.
    rng : numpy.random.Generator, optional
        Draws the direction of the shadow and the noise; default: seed 0.
    grid : bool
        Whether the paper has its 1 mm and 5 mm lines.

    Returns
    -------
    numpy.ndarray of uint8, shape (height, width, 3)
        Red, green, blue.
    """
    signal = np.asarray(signal_mv, dtype=np.float64)
    if signal.ndim != 1 or not len(signal):
        raise ValueError(f"The signal has shape {signal.shape}; one lead of shape (T,) is needed.")
    picture = _paper(width, height, grid)
    _draw_trace(picture, signal, sampling_rate, (0, 0, width, height), _pixels_per_mm(width))
    _write(picture, text, (1.0, 1.0), _pixels_per_mm(width))
    return _as_scanned(picture, rotation, shadow, noise, rng)


def draw_sheet(
    ecg_mv: ArrayLike,
    sampling_rate: float,
    *,
    leads: Sequence[str] = LEADS,
    width: int = 2500,
    height: int = 1000,
    rotation: float = 0.0,
    shadow: float = 0.0,
    noise: float = 0.0,
    text: str = "",
    rng: np.random.Generator | None = None,
    grid: bool = True,
) -> Picture:
    """Draw twelve leads as the usual sheet: three rows of four leads, 2.5 s each, and ten seconds of lead II.

    The columns follow each other in time, as printed by a cardiograph.

    Parameters
    ----------
    ecg_mv : array_like, shape (12, T)
        Millivolts, in the order of ``leads``.
    leads : sequence of str
        Names of the rows of ``ecg_mv``, in upper or lower case.
    sampling_rate, width, height, rotation, shadow, noise, text, rng, grid
        As in `draw_ecg`; a row is a quarter of the height.

    Returns
    -------
    numpy.ndarray of uint8, shape (height, width, 3)
    """
    ecg = np.asarray(ecg_mv, dtype=np.float64)
    by_name = {name.casefold(): number for number, name in enumerate(leads)}
    lacking = [name for name in LEADS if name.casefold() not in by_name]
    if ecg.ndim != 2 or len(ecg) != len(by_name) or lacking:
        raise ValueError(f"A sheet needs {', '.join(LEADS)}, and got {ecg.shape} for {', '.join(leads)}.")
    picture = _paper(width, height, grid)
    scale = _pixels_per_mm(width)
    for row, names in enumerate(SHEET):
        top, bottom = row * height // len(SHEET), (row + 1) * height // len(SHEET)
        for column, name in enumerate(names):
            left, right = column * width // len(names), (column + 1) * width // len(names)
            first, last = (round(edge / width * PAPER_SECONDS * sampling_rate) for edge in (left, right))
            part = ecg[by_name[name.casefold()], first : last + 1]
            if len(part):
                _draw_trace(picture, part, sampling_rate, (left, top, right, bottom), scale)
            _write(picture, name, (left / scale + 1, top / scale + 1), scale)
    _write(picture, text, (width / scale / 2, 1.0), scale)
    return _as_scanned(picture, rotation, shadow, noise, rng)


def write_picture(path: Path, picture: Picture, quality: int = 90) -> None:
    """Write a picture whole or not at all; the ending of the name chooses JPEG or PNG."""
    with replacing(path) as unfinished:
        Image.fromarray(picture).save(unfinished, quality=quality)


def _pixels_per_mm(width: int) -> float:
    return width / (PAPER_SECONDS * _MM_PER_SECOND)


@functools.lru_cache(maxsize=8)
def _blank(width: int, height: int, grid: bool) -> Picture:
    """Return empty paper; lines lie at whole millimetres from the upper left, bold ones at every fifth."""
    strength = np.zeros((height, width), dtype=np.float32)
    if grid:
        scale = _pixels_per_mm(width)
        for step, thickness, weight in ((1, _FINE_LINE_MM, 0.5), (5, _BOLD_LINE_MM, 1.0)):
            rows, columns = (_lines(size, scale, step, thickness) for size in (height, width))
            np.maximum(strength, weight * np.maximum(rows[:, None], columns[None, :]), out=strength)
    paper, line = np.array(PAPER, dtype=np.float32), np.array(GRID, dtype=np.float32)
    return (paper + strength[..., None] * (line - paper)).round().astype(np.uint8)


def _paper(width: int, height: int, grid: bool) -> Picture:
    """Return paper to draw on."""
    if width < _SMALLEST_SIDE or height < _SMALLEST_SIDE:
        raise ValueError(f"A picture of {width} x {height} pixels is too small to draw on.")
    return _blank(width, height, grid).copy()


def _lines(size: int, scale: float, step: int, thickness: float) -> NDArray[np.float32]:
    """Return the share of each pixel of an axis that lines every ``step`` millimetres cover."""
    edges = np.arange(size + 1) / scale
    covered = np.floor(edges / step) * thickness + np.minimum(edges % step, thickness)
    return (np.diff(covered) * scale).astype(np.float32)


def _draw_trace(
    picture: Picture,
    signal: NDArray[np.float64],
    sampling_rate: float,
    box: tuple[int, int, int, int],
    scale: float,
) -> None:
    """Draw a signal into a box (left, top, right, bottom; pixels) of a picture, from its left edge."""
    left, top, right, bottom = box
    if np.isnan(signal).all():
        return
    rows = _trace_rows(signal, sampling_rate, right - left, bottom - top, scale)
    mask = _pen(rows, bottom - top, _PEN_MM * scale / 2)
    part = Image.fromarray(picture[top:bottom, left:right])
    part.paste(INK, mask=Image.fromarray(mask))
    picture[top:bottom, left:right] = np.asarray(part)


def _trace_rows(
    signal: NDArray[np.float64], sampling_rate: float, columns: int, height: int, scale: float
) -> NDArray[np.float64]:
    """Return the row of the trace at points along each column, shape (columns, points); NaN: no trace.

    The last point of a column is the first of the next, so that strokes join.
    """
    per_column = sampling_rate / (scale * _MM_PER_SECOND)
    points = max(1, int(np.ceil(per_column)))
    where = np.arange(columns * points + 1) / points * per_column
    volts = np.interp(where, np.arange(len(signal)), signal, right=np.nan)
    rise = scale * _MM_PER_MILLIVOLT
    rows = _zero_row(signal, height, rise) - volts * rise
    return np.concatenate([rows[:-1].reshape(columns, points), rows[points::points, None]], axis=1)


def _zero_row(signal: NDArray[np.float64], height: int, rise: float) -> float:
    """Return the row of 0 mV: the median at half the height, unless the trace would leave the paper."""
    margin = MARGIN * height
    lowest, highest = height - margin + np.nanmin(signal) * rise, margin + np.nanmax(signal) * rise
    if highest > lowest:
        return (highest + lowest) / 2
    return float(np.clip(height / 2 + np.nanmedian(signal) * rise, highest, lowest))


def _pen(rows: NDArray[np.float64], height: int, radius: float) -> Picture:
    """Return how much of each pixel a round pen covers, 0 to 255, shape (height, columns).

    A column is covered from the highest to the lowest point that the pen reaches there while its centre
    is in this column or in one nearer than its radius.
    """
    highest, lowest = np.fmin.reduce(rows, axis=1), np.fmax.reduce(rows, axis=1)
    top, bottom = highest - radius, lowest + radius
    for shift in range(1, int(radius) + 1):
        reach = np.sqrt(radius**2 - shift**2)
        for to, by in ((slice(shift, None), slice(None, -shift)), (slice(None, -shift), slice(shift, None))):
            top[to] = np.fmin(top[to], highest[by] - reach)
            bottom[to] = np.fmax(bottom[to], lowest[by] + reach)
    pixel = np.arange(height, dtype=np.float32)[:, None]
    covered = np.minimum(np.float32(bottom), pixel + 1) - np.maximum(np.float32(top), pixel)
    return (255 * np.nan_to_num(np.clip(covered, 0, 1))).astype(np.uint8)


def _write(picture: Picture, text: str, place_mm: tuple[float, float], scale: float) -> None:
    """Write text of 3 mm height at a place (millimetres from the left, from the top)."""
    if not text:
        return
    left, top = round(place_mm[0] * scale), round(place_mm[1] * scale)
    font = ImageFont.load_default(size=max(6.0, 3 * scale))
    right, bottom = (int(edge) + 2 for edge in font.getbbox(text)[2:])
    part = Image.fromarray(picture[top : top + bottom, left : left + right])
    ImageDraw.Draw(part).text((0, 0), text, fill=INK, font=font)
    picture[top : top + bottom, left : left + right] = np.asarray(part)


def _as_scanned(
    picture: Picture, rotation: float, shadow: float, noise: float, rng: np.random.Generator | None
) -> Picture:
    """Return a picture askew, in the shade, and grainy."""
    if not 0 <= shadow <= 1 or noise < 0:
        raise ValueError(f"shadow is {shadow} (0 to 1 is possible), noise {noise} (0 or more).")
    rng = rng or np.random.default_rng(0)
    if rotation:
        image = Image.fromarray(picture)
        picture = np.array(image.rotate(rotation, Image.Resampling.BILINEAR, fillcolor=PAPER))
    if not shadow and not noise:
        return picture
    height, width = picture.shape[:2]
    values = picture.astype(np.float32)
    if shadow:
        angle = rng.uniform(0, 2 * np.pi)
        across = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(np.cos(angle))
        down = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * np.float32(np.sin(angle))
        ramp = across + down
        ramp = (ramp - ramp.min()) / np.ptp(ramp)
        values *= (1 - np.float32(shadow) * ramp)[..., None]
    if noise:
        values += 255 * np.float32(noise) * rng.standard_normal((height, width, 1), dtype=np.float32)
    return np.clip(values.round(), 0, 255).astype(np.uint8)


_RESAMPLING = Image.Resampling.HAMMING

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")
_LARGEST_PICTURE = 80_000_000
"""Pixels above which a file is refused before it is decoded."""
_FAINT = 0.2
"""Darkness, as a share of that of black, that is still paper: grain, and what JPEG leaves of a grid."""
_LIGHT = 180
"""Brightness of 255 above which nothing in a picture can be ink."""
_FINENESS = 4
"""Ink is distinguished from paper at up to so many times the size given, where a thin trace is still dark."""


_LARGEST_INK = 0.3
"""Share of a picture that is ink, on the average, above which it is no ECG; drawn ones have .02 to .07."""
_CLEAR, _SMALLEST_WIDTH = 60, 0.4
"""Ink of 255 that is no grain; share of the width with such ink at least. Drawn ones have all of it."""


_WIDEST_PAGE = 4
"""Width as a multiple of the height from which a picture is a strip."""
_PAGE_HEIGHT, _MOST_ROWS = 400, 15
"""Pixels at which rows are counted; rows that a page has at most."""
_JOINED = 9
"""Pixels of such a page that a gap within a trace has at most."""


def read_ecg_image(
    path: Path,
    height: int,
    width: int | None = None,
    notes: list[str] | None = None,
    *,
    strip: bool = False,
) -> Picture:
    """Read a picture of an ECG as ink on paper, at one size, its aspect kept.

    Parameters
    ----------
    path : pathlib.Path
        JPEG, PNG, TIFF, BMP, GIF or WebP of any size; a rotation noted by the camera is undone.
    height, width : int
        Pixels requested; width by default ten times the height, as a strip of lead II has it.
    notes : list of str, optional
        Gets a sentence for each thing that is doubtful, or was done to the picture.
    strip : bool
        Whether a strip of one lead is expected, and a page of several rows is refused.

    Returns
    -------
    numpy.ndarray of uint8, shape (height, width)
        See `to_ink`.

    Raises
    ------
    DataError
        If the file is absent, damaged, cut short, too large or too small, shows nothing, mostly ink, or a
        page where a strip is expected.
    """
    image, texts = _open(path)
    shown = _on_ground(image)
    lightest, done = on_paper(path.name, shown)
    if strip and (rows := _rows_of_traces(lightest)) > 1:
        raise DataError(
            f"The picture {path.name} shows a page with about {rows} rows of traces. Expected is a strip of "
            f"lead II alone, {PAPER_SECONDS:g} seconds wide and about a tenth as high: cut out the rhythm "
            "strip that is labelled II. A run on whole pages needs load_data.py with --sheet."
        )
    ink, inside = _ink(lightest, height, width)
    if not ink.any():
        lowest, highest = cast(tuple[int, int], shown.convert("L").getextrema())
        why = ", or a trace as light as its grid" if highest > lowest else " of one colour"
        raise DataError(f"The picture {path.name} shows nothing but paper{why}: replace it.")
    share, across = inside.mean() / 255, (inside.max(axis=0) > _CLEAR).mean()
    if share > _LARGEST_INK:
        raise DataError(f"{share:.0%} of the picture {path.name} is ink, too much for a trace: replace it.")
    if _is_wide(lightest) and ink.shape[1] < _WIDEST_PAGE * ink.shape[0]:
        done.append("It is as wide as a strip of one lead, where a page of twelve leads is expected.")
    if across < _SMALLEST_WIDTH:
        done.append(f"Only {across:.0%} of its width holds clear ink: does it show an ECG?")
    if notes is not None:
        notes += texts + done
    return ink


def to_ink(picture: Image.Image | Picture, height: int, width: int | None = None) -> Picture:
    """Return how much ink there is in each pixel of a picture, scaled to fit a box with its aspect kept.

    Ink is what is dark in all three colours, beside the paper around it: a grid in red, green or blue
    vanishes, and so do shadows; a grey grid stays, and a coloured trace fades.

    Parameters
    ----------
    picture : PIL.Image.Image, or numpy.ndarray of uint8 of shape (rows, columns, 3)
    height, width : int
        Pixels of the box; width by default ten times the height. The rest of the box is paper.

    Returns
    -------
    numpy.ndarray of uint8, shape (height, width)
        255 black ink, 0 paper.
    """
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    return _ink(lightest_colour(_on_white(image)), height, width)[0]


def _ink(lightest: Image.Image, height: int, width: int | None) -> tuple[Picture, Picture]:
    """Return the ink of a picture in a box, see `to_ink`, and the part of the box that it fills."""
    width = 10 * height if width is None else width
    if height < 1 or width < 1:
        raise ValueError(f"A picture of {height} x {width} pixels was asked for; at least 1 x 1 is needed.")
    scale = min(height / lightest.height, width / lightest.width)
    size = (max(1, round(lightest.width * scale)), max(1, round(lightest.height * scale)))
    fine = lightest.reduce(max(1, int(1 / (_FINENESS * scale))))
    ink = _darker_than(_paper_around(lightest.resize(size, _RESAMPLING)), fine).resize(size, _RESAMPLING)
    box = np.zeros((height, width), dtype=np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    box[top : top + size[1], left : left + size[0]] = np.asarray(ink).round()
    return box, box[top : top + size[1], left : left + size[0]]


def _is_wide(image: Image.Image) -> bool:
    """Tell whether a picture has the shape of a strip."""
    return image.width >= _WIDEST_PAGE * image.height


def _rows_of_traces(lightest: Image.Image) -> int:
    """Return how many rows of traces lie above each other in a picture: the usual number over its columns.

    A wide picture has room for one row. More rows than a page can have are a grid that stayed.
    """
    if _is_wide(lightest):
        return 1
    clear = _ink(lightest, _PAGE_HEIGHT, 2 * _WIDEST_PAGE * _PAGE_HEIGHT)[1] > _CLEAR
    joined = ndimage.binary_closing(clear, np.ones((_JOINED, 1)))
    starts = joined & ~np.pad(joined, ((1, 0), (0, 0)))[:-1]
    counts = starts.sum(axis=0)
    usual = round(float(np.median(counts[counts > 0]))) if counts.any() else 0
    return usual if usual <= _MOST_ROWS else 1


def _open(path: Path) -> tuple[Image.Image, list[str]]:
    """Return a decoded picture, turned upright, and what is doubtful about it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked below
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path, image)
                pages = getattr(image, "n_frames", 1)
                upright = ImageOps.exif_transpose(image)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"The picture {path.name} does not exist.") from None
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataError(f"The picture {path.name} cannot be read ({error}): replace it.") from error
    checks = [
        (pages > 1, f"It has {pages} pages, of which the first is read."),
        (upright.height > upright.width, "It is taller than wide: does it lie on its side?"),
    ]
    return upright, [text for doubtful, text in checks if doubtful]


def _check_size(path: Path, image: Image.Image) -> None:
    """Refuse a picture before it is decoded."""
    if image.width * image.height > _LARGEST_PICTURE:
        raise DataError(
            f"The picture {path.name} has {image.width} x {image.height} pixels; "
            f"at most {_LARGEST_PICTURE // 1_000_000} million are read: scale it down."
        )
    if min(image.size) < _SMALLEST_SIDE:
        raise DataError(
            f"The picture {path.name} has {image.width} x {image.height} pixels, "
            f"and {_SMALLEST_SIDE} are the least for a side: replace it."
        )


def _on_ground(image: Image.Image) -> Image.Image:
    """Return any picture as red, green and blue, transparent parts black where all that is drawn is light."""
    shown = _on_white(image)
    if _has_alpha(image) and np.asarray(shown.convert("L")).min() > _LIGHT:
        return image.convert("RGBA").convert("RGBa").convert("RGB")
    return shown


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info


def _on_white(image: Image.Image) -> Image.Image:
    """Return any picture as red, green and blue, transparent parts white."""
    if image.mode.startswith(("I", "F")):  # 16 bits and more, which Pillow would cut off at 255
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = max(values.max(), 1e-9)  # converters of 12 bits do not use all 16
        return Image.fromarray((255 * np.clip(values / top, 0, 1)).astype(np.uint8)).convert("RGB")
    if _has_alpha(image):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _paper_around(image: Image.Image) -> Image.Image:
    """Return how light the paper is: the lightest within an eighth of the height, smoothed over as much."""
    grey = np.asarray(image, dtype=np.float32)
    reach = 2 * max(1, grey.shape[0] // 8) + 1
    return Image.fromarray(ndimage.uniform_filter(ndimage.maximum_filter(grey, size=reach), size=reach))


def _darker_than(paper: Image.Image, image: Image.Image) -> Image.Image:
    """Return how much darker each pixel of an image is than the paper, 0 to 255, as real numbers."""
    light = np.asarray(paper.resize(image.size, Image.Resampling.BILINEAR))
    darkness = (light - np.asarray(image, dtype=np.float32)) / np.maximum(light, 1)
    return Image.fromarray(255 * np.clip((darkness - _FAINT) / (1 - _FAINT), 0, 1))
