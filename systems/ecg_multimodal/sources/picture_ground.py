"""What a picture shows its ECG on: light paper, a dark ground, or paper with something dark around it.

The rest of reading expects dark ink on light paper. A light trace on a dark ground is inverted, what is dark
and thick at the edges (a table, a scanner's lid) is cut off, and both is said.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops
from scipy import ndimage

from datasets.sources import DataError

_LOOKED_AT = 200
"""Pixels of the shorter side, at which paper and surroundings are told apart."""
_TAILS = (0.2, 50.0, 99.8)
"""Percentiles of brightness: ink or what is darkest, the ground, what is lightest."""
_LIGHTER = 2.0
"""How many times farther from the ground the lightest must be than the darkest, for a light trace."""
_FAINTEST = 50
"""Brightness of 255 by which a light trace stands out at least."""
_WHITE = 0.6
"""Share of its brightness that a white trace has in each colour."""
_SMALLEST_SHEET = 0.1
"""Share of a picture that is a sheet of paper, however dark the rest is."""
_DARK = 0.35
"""Brightness, as a share of that of the paper, of what is not paper."""
_SMALLEST_BORDER = 0.01


def on_paper(name: str, image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return how light a picture is as if on light paper, and what had to be done for it.

    Parameters
    ----------
    name : str
        Of the file.
    image : PIL.Image.Image
        Red, green and blue.

    Returns
    -------
    lightest : PIL.Image.Image
        The lightest of the three colours, 0 to 255.
    texts : list of str

    Raises
    ------
    DataError
        If hardly anything of it is paper.
    """
    lightest = lightest_colour(image)
    luminance = image.convert("L")
    darkest, ground, brightest = np.percentile(np.asarray(luminance), _TAILS)
    small = _small(luminance)
    if brightest - ground > max(_LIGHTER * (ground - darkest), _FAINTEST):
        sheet = _thick(small > (ground + brightest) / 2)
        if sheet.mean() < _SMALLEST_SHEET:
            text = "It shows a light trace on a dark ground; it was inverted."
            return _inverted(image, luminance, brightest), [text]
    border = _border(small)
    if border.mean() < _SMALLEST_BORDER:
        return lightest, []
    if border.mean() > 1 - _SMALLEST_SHEET:
        raise DataError(
            f"Hardly anything of the picture {name} is paper: cut it to the sheet, or replace it."
        )
    text = f"{border.mean():.0%} of the picture, dark at its edges, is no paper; it was cut off."
    return _without(lightest, border), [text]


def _inverted(image: Image.Image, luminance: Image.Image, brightest: float) -> Image.Image:
    """Return a light trace as dark; where it is white, by what is light in all colours, which no grid is."""
    common = functools.reduce(ImageChops.darker, image.split())
    level = float(np.percentile(np.asarray(common), _TAILS[-1]))
    chosen, level = (common, level) if level >= _WHITE * brightest else (luminance, brightest)
    return chosen.point([255 - min(255, round(255 * value / level)) for value in range(256)])


def lightest_colour(image: Image.Image) -> Image.Image:
    """Return the lightest of red, green and blue, in which a coloured grid vanishes."""
    return functools.reduce(ImageChops.lighter, image.split())


def _small(image: Image.Image) -> NDArray[np.float32]:
    """Return a picture of which the shorter side has some 200 pixels."""
    return np.asarray(image.reduce(max(1, min(image.size) // _LOOKED_AT)), np.float32)


def _thick(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the parts of a mask that a square of a sixteenth of its shorter side fits into."""
    size = 2 * (max(3, min(mask.shape) // 16) // 2) + 1
    inner = ndimage.minimum_filter(mask, size)  # both filters are separable, unlike an opening
    return np.asarray(ndimage.maximum_filter(inner, size))


def _border(small: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return what is dark and thick and touches an edge of the picture."""
    regions, _ = ndimage.label(_thick(small < _DARK * np.percentile(small, 95)))
    edges = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    return np.isin(regions, np.setdiff1d(edges, [0]))


def _without(lightest: Image.Image, border: NDArray[np.bool_]) -> Image.Image:
    """Return the part of a picture that is paper, what remains of the border in it made paper too."""
    regions, _ = ndimage.label(~border)
    largest = regions == np.bincount(regions.ravel())[1:].argmax() + 1
    rows, columns = (np.flatnonzero(largest.any(axis=axis)) for axis in (1, 0))
    down, across = lightest.height / border.shape[0], lightest.width / border.shape[1]
    paper = int(np.percentile(_small(lightest)[largest], 75))
    grown = ndimage.binary_dilation(~largest, iterations=2)
    mask = Image.fromarray((255 * grown).astype(np.uint8)).resize(lightest.size, Image.Resampling.NEAREST)
    filled = Image.composite(Image.new("L", lightest.size, paper), lightest, mask)
    left, right = round(columns[0] * across), round((columns[-1] + 1) * across)
    return filled.crop((left, round(rows[0] * down), right, round((rows[-1] + 1) * down)))
