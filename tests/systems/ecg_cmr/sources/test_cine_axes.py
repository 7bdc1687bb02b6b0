"""Which axis of a cine is time: by the header, by the motion, and what is said where the two differ."""

import gzip

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from datasets.sources import DataError
from simulation.cine import render_cine, render_masks
from simulation.heart_population import draw_heart
from simulation.patient import stream
from systems.ecg_cmr.sources.cine_axes import changes, comes_back, moving_axis
from systems.ecg_cmr.sources.cmr_files import display_affine, read_cine

AFFINE = display_affine(2.0, 8.0)
STEPS = (2.0, 2.0, 8.0, 0.03)
MANY = [(3, 40), (8, 24), (14, 8), (5, 5), (20, 6), (12, 12)]
"""Slices and frames."""


def drawn(number, slices=6, frames=12, size=48):
    """Return a beating heart in still surroundings that differ by slice, (height, width, slices, frames)."""
    heart, rng = draw_heart(5, number), np.random.default_rng(number)
    whole = []
    for level in np.linspace(0.1, 0.9, slices):
        masks = render_masks(heart, None, frames, size, 2.4, level=float(level))
        still = ndimage.gaussian_filter(rng.normal(size=(size, size)), 3)
        still = 0.3 + 0.3 * still / still.std()
        shown = still * (1 - masks.sum(axis=0)) + np.tensordot([2.0, 0.8, 2.2], masks, 1)
        whole.append(shown + rng.normal(0, 0.1, shown.shape))
    return (200 * np.stack(whole)).transpose(2, 3, 0, 1).clip(0).astype(np.int16)


@pytest.fixture(scope="module")
def cine():
    return drawn(0)


def save(folder, data, steps=STEPS, affine=AFFINE, units=("mm", "sec")):
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_zooms(steps[: data.ndim])
    image.header.set_xyzt_units(*units)
    nibabel.save(image, folder / "cine.nii.gz")
    return folder / "cine.nii.gz"


def plain(folder, cine):
    return read_cine(save(folder, cine))


# Motion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slices", "frames"), MANY)
def test_motion_names_the_axis_of_time_of_many_hearts(slices, frames):
    for number in range(4):
        data = drawn(number, slices, frames)
        shares = changes(data, range(4))
        assert shares[3] < 0.3 < min(shares[axis] for axis in range(3))
        assert moving_axis(data, range(4), 3) == (3, False)
        if slices >= 5:
            assert moving_axis(data, range(4), 2) == (3, True)


def test_a_cycle_comes_back_and_a_stack_of_slices_does_not():
    for number in range(6):
        heart, data = draw_heart(9, number), drawn(number, 9)
        for long_axis in (False, True):
            assert comes_back(render_cine(heart, stream(9, number), 24, long_axis=long_axis))
        assert not comes_back(data[..., 0].transpose(2, 0, 1).astype(np.float32))
    noise = np.random.default_rng(0).random((20, 30, 30)).astype(np.float32)
    assert comes_back(noise), "what cannot be told is no fault"
    assert moving_axis(noise, range(3), 0) == (None, False)


# Axes that are read ---------------------------------------------------------------------------------


def test_axes_of_one_do_not_count(tmp_path, cine):
    whole, middle = plain(tmp_path, cine), cine[:, :, 3]
    cases = [
        (cine[:, :, :, None], 6, False),
        (middle[:, :, None], 1, False),
        (middle[:, :, None, None], 1, False),
        (middle[:, :, None, :, None], 1, False),
        (middle[..., None], 1, True),
    ]
    for data, slices, doubted in cases:
        found = read_cine(save(tmp_path, data, (*STEPS[:3], 1.0, 1.0)))
        np.testing.assert_array_equal(found.frames, whole.frames)
        assert found.slices == slices
        assert ("It has three axes; the last is taken for time." in found.warnings) == doubted


def test_time_and_slices_exchanged_in_file_and_header_are_read_and_said(tmp_path, cine):
    turned = read_cine(save(tmp_path, cine.swapaxes(2, 3), (2.0, 2.0, 0.03, 8.0), np.diag([-2, -2, 0.03, 1])))
    usual = read_cine(save(tmp_path, cine, STEPS, np.diag([-2.0, -2, 8, 1])))
    np.testing.assert_array_equal(turned.frames, usual.frames)
    assert turned.slices == 6
    assert any(
        "third axis is taken for time, by its header and its motion" in text for text in turned.warnings
    )


def test_arrays_may_have_axes_of_one(tmp_path, cine):
    data = cine.transpose(3, 2, 0, 1)
    for array in (data, data[:, 3:4], data[:, 3], data[:, 3, ..., None], data[None, :, 3]):
        np.save(tmp_path / "cine.npy", array)
        np.testing.assert_array_equal(read_cine(tmp_path / "cine.npy", 2.0).frames, data[:, 3])


# What contradicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "steps", "said", "seen"),
    [
        ((0, 1, 3, 2), STEPS, "fourth", "third"),
        ((0, 1, 3, 2), (2.0, 2.0, 1.0, 1.0), "fourth", "third"),
        ((0, 1, 2, 3), (2.0, 2.0, 0.03, 8.0), "third", "fourth"),
        ((3, 0, 1, 2), (1.0, 2.0, 2.0, 8.0), "fourth", "first"),
        ((3, 2, 0, 1), (1.0, 8.0, 2.0, 2.0), "fourth", "first"),
    ],
)
def test_a_header_that_the_motion_contradicts_is_refused_with_both(tmp_path, cine, order, steps, said, seen):
    path = save(tmp_path, cine.transpose(order), steps, np.diag([-steps[0], -steps[1], steps[2], 1]))
    with pytest.raises(
        DataError, match=rf"header the {said} axis of cine.nii.gz is time.* motion the {seen}"
    ):
        read_cine(path)


def test_slices_of_one_moment_are_no_cine(tmp_path):
    data = drawn(1, 9)[..., 0]
    for stack in (data, data[..., None]):
        with pytest.raises(DataError, match="9 slices of one moment, 8 mm apart, and no cycle"):
            read_cine(save(tmp_path, stack))
    unknown = read_cine(save(tmp_path, data, (2.0, 2.0, 1.0), np.diag([-2.0, -2, 1, 1])))
    assert any("Its last frame is unlike its first" in text for text in unknown.warnings)


@pytest.mark.parametrize("order", [(0, 1, 3), (0, 1, 2, 3), (2, 3, 0, 1), (3, 0, 1, 2)])
def test_arrays_with_other_axes_are_refused(tmp_path, cine, order):
    data = cine if len(order) == 4 else cine[:, :, 3:4]
    array = data.transpose(order) if len(order) == 4 else data[:, :, 0]
    np.save(tmp_path / "cine.npy", array)
    with pytest.raises(DataError, match=r"(By its motion the \w+ axis of cine.npy is time|outnumber)"):
        read_cine(tmp_path / "cine.npy", 2.0)


def test_colours_are_no_slices(tmp_path, cine):
    np.save(tmp_path / "cine.npy", np.repeat(cine[:, :, 3].transpose(2, 0, 1)[..., None], 3, axis=3))
    with pytest.raises(DataError, match="its slices outnumber its pixels"):
        read_cine(tmp_path / "cine.npy", 2.0)


def test_a_doubt_is_printed_where_neither_shows_time(tmp_path):
    noise = np.random.default_rng(0).integers(0, 99, (30, 24, 5, 20)).astype(np.int16)
    assert read_cine(save(tmp_path, noise)).warnings == ()
    found = read_cine(save(tmp_path, noise, units=("mm", "unknown")))
    assert found.warnings == (
        "Neither its header nor its motion shows which axis is time; the fourth is taken.",
    )


# What a header may hold -----------------------------------------------------------------------------


def patched(path, place, value):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[place : place + len(value)] = value
    path.write_bytes(gzip.compress(bytes(content)))
    return path


@pytest.mark.parametrize("code", [4, 5, 7, 63, 66, 255])
def test_units_that_are_not_defined_are_said(tmp_path, cine, code):
    usual = plain(tmp_path, cine)
    found = read_cine(patched(tmp_path / "cine.nii.gz", 123, bytes([code])))
    np.testing.assert_array_equal(found.frames, usual.frames)
    assert f"units that are not defined (code {code})" in found.warnings[0]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (80, [np.nan]),
        (88, [np.inf]),
        (92, [np.nan]),
        (92, [0.0]),
        (92, [-1.0]),
        (112, [np.nan]),
        (112, [0.0]),
    ],
)
def test_numbers_that_are_none_change_no_frame(tmp_path, cine, place, value):
    usual = plain(tmp_path, cine)
    found = read_cine(patched(tmp_path / "cine.nii.gz", place, np.array(value, "<f4").tobytes()))
    np.testing.assert_array_equal(found.frames, usual.frames)
    assert found.spacing == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize("broken", [b"\xe4", b"(", b"\n"])
def test_an_array_with_a_broken_header_is_named(tmp_path, cine, broken):
    path = tmp_path / "cine.npy"
    np.save(path, cine.transpose(3, 2, 0, 1))
    content = bytearray(path.read_bytes())
    for place in (10, 40, 60):
        content[place : place + 1] = broken
        path.write_bytes(bytes(content))
        with pytest.raises(DataError, match=r"cine\.npy"):
            read_cine(path, 2.0)


def test_values_that_are_no_brightness_are_refused(tmp_path, cine):
    colours = np.zeros(cine.shape[:3], dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for data in (cine.astype(np.complex64), colours):
        with pytest.raises(DataError, match="one brightness a voxel is needed"):
            read_cine(save(tmp_path, data))
