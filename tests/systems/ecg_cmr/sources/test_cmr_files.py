"""Cines from files: whatever the axes, orientation, spacing and number of frames, one and the same heart."""

import gzip
import itertools

import nibabel
import numpy as np
import pytest
from nibabel import orientations

from datasets.sources import DataError
from systems.ecg_cmr.sources.cmr_files import Cine, display_affine, in_time, prepare_cine, read_cine, to_bytes

RNG = np.random.default_rng(0)
FRAMES, HEIGHT, WIDTH, SLICES = 20, 24, 30, 5
SHOWN = RNG.integers(0, 1000, (FRAMES, HEIGHT, WIDTH)).astype(np.int16)
"""What the middle slice shows: rows from top to bottom, columns to the patient's left."""


def stack(frames=SHOWN, slices=SLICES):
    """Return frames as the middle one of some slices, (columns, rows, slices, frames)."""
    whole = np.zeros((frames.shape[2], frames.shape[1], slices, len(frames)), frames.dtype)
    whole[:, :, slices // 2] = frames.transpose(2, 1, 0)
    return whole


def image_of(data, affine=None, spacing=(1.4, 1.4, 9.0, 0.03)):
    """Return a NIfTI in millimetres."""
    if affine is None:
        affine = display_affine(1.4, 9.0)
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_zooms((*spacing, 1.0)[: data.ndim])
    image.header.set_xyzt_units("mm", "sec")
    return image


def save(folder, image, name="cine.nii.gz"):
    path = folder / name
    nibabel.save(image, path)
    return path


def disc(spacing, radius=28.0, shape=(120, 100), center=(0.0, 0.0)):
    """Return 16 frames of a disc that beats, on pixels of given height and width, mm."""
    y, x = ((np.arange(n) - (n - 1) / 2) * size for n, size in zip(shape, spacing, strict=True))
    away = np.hypot(y[:, None] - center[0], x[None, :] - center[1])
    beat = radius * (1 - 0.2 * np.sin(np.pi * np.arange(16) / 16) ** 2)
    edge = (beat[:, None, None] - away) / max(spacing) + 0.5
    return np.clip(edge, 0, 1).astype(np.float32)


# Axes and orientation -------------------------------------------------------------------------------


def test_a_cine_is_read_as_it_is_displayed(tmp_path):
    cine = read_cine(save(tmp_path, image_of(stack())))
    np.testing.assert_array_equal(cine.frames, SHOWN)
    assert cine.spacing == pytest.approx((1.4, 1.4))
    assert (cine.slices, cine.warnings) == (5, ())
    assert cine.frames.dtype == np.float32


def test_every_orientation_shows_the_same(tmp_path):
    canonical = image_of(stack())
    for axes, flips in itertools.product(
        itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)
    ):
        turned = canonical.as_reoriented(np.stack([axes, flips], axis=1))
        cine = read_cine(save(tmp_path, turned, "turned.nii"))
        np.testing.assert_array_equal(cine.frames, SHOWN, err_msg=f"{axes} {flips}")
        assert any("taken for that of the slices" in text for text in cine.warnings) == (axes[2] != 2)


@pytest.mark.parametrize("degrees", [-30, 12, 40])
def test_an_oblique_plane_keeps_its_display(tmp_path, degrees):
    a = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    image = image_of(stack(), turn @ display_affine(1.4, 9.0))
    mirrored = image.as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
    for one in (image, mirrored):
        np.testing.assert_array_equal(read_cine(save(tmp_path, one)).frames, SHOWN)


def test_without_a_stated_orientation_rows_come_first(tmp_path):
    image = nibabel.Nifti1Image(SHOWN.transpose(1, 2, 0)[:, :, None], None)
    image.header.set_zooms((1.2, 1.6, 8.0, 1.0))
    cine = read_cine(save(tmp_path, image))
    np.testing.assert_array_equal(cine.frames, SHOWN)
    assert cine.spacing == pytest.approx((1.2, 1.6))


def test_pixel_sizes_turn_with_the_picture(tmp_path):
    affine = display_affine(1.0) @ np.diag([2.0, 1.0, 1.0, 1.0])  # columns 2 mm apart, rows 1 mm
    image = image_of(stack(), affine, (2.0, 1.0, 8.0, 1.0))
    turned = image.as_reoriented(np.array([[1, 1], [0, -1], [2, 1]]))
    for one in (image, turned):
        cine = read_cine(save(tmp_path, one))
        assert cine.spacing == pytest.approx((1.0, 2.0))
        np.testing.assert_array_equal(cine.frames, SHOWN)
        assert any("not square" in text for text in cine.warnings)


def test_the_middle_slice_is_taken(tmp_path):
    for slices, middle in ((1, 0), (2, 1), (10, 5), (11, 5)):
        data = np.zeros((WIDTH, HEIGHT, slices, FRAMES), np.int16)
        data += np.arange(slices, dtype=np.int16)[None, None, :, None] + 1
        data[0] = 0
        cine = read_cine(save(tmp_path, image_of(data)))
        assert cine.frames.max() == middle + 1
        assert cine.slices == slices


def test_three_axes_are_height_width_and_time_and_that_is_said(tmp_path):
    cine = read_cine(save(tmp_path, image_of(SHOWN.transpose(2, 1, 0))))
    np.testing.assert_array_equal(cine.frames, SHOWN)
    assert "three axes; the last is taken for time" in cine.warnings[0]


@pytest.mark.parametrize("shape", [(FRAMES, HEIGHT, WIDTH), (FRAMES, 3, HEIGHT, WIDTH)])
def test_arrays_have_frames_first(tmp_path, shape):
    data = np.zeros(shape, np.float32)
    if len(shape) == 4:
        data[:, 1] = SHOWN
    else:
        data[:] = SHOWN
    np.save(tmp_path / "cine.npy", data)
    cine = read_cine(tmp_path / "cine.npy", 1.8)
    np.testing.assert_array_equal(cine.frames, SHOWN)
    assert cine.spacing == (1.8, 1.8)


# Pixel sizes ----------------------------------------------------------------------------------------


def test_metres_are_understood(tmp_path):
    image = image_of(stack(), display_affine(0.0014, 0.009), (0.0014, 0.0014, 0.009, 0.03))
    image.header.set_xyzt_units("meter", "sec")
    assert read_cine(save(tmp_path, image)).spacing == pytest.approx((1.4, 1.4))


def test_two_pixel_sizes_are_reported_and_what_the_user_states_wins(tmp_path):
    image = image_of(stack())
    image.header["pixdim"][1:3] = 2.0  # the affine says 1.4
    path = save(tmp_path, image, "two.nii")
    content = bytearray(path.read_bytes())
    content[80:88] = np.array([2.0, 2.0], "<f4").tobytes()  # saving had made them agree
    path.write_bytes(content)
    cine = read_cine(path)
    assert cine.spacing == pytest.approx((1.4, 1.4))
    assert any("two pixel sizes, 1.4 x 1.4 and 2 x 2" in text for text in cine.warnings)
    assert read_cine(path, 1.8).spacing == (1.8, 1.8)


@pytest.mark.parametrize(("spacing", "shape"), [((1.0, 1.0), (200, 220)), ((0.8, 1.9), (250, 100))])
def test_sizes_in_millimetres_survive(spacing, shape):
    frames = prepare_cine(Cine(disc(spacing, shape=shape), spacing, 1), 16, 64, 2.2)[0] / 255
    assert frames.sum() * 2.2**2 == pytest.approx(np.pi * 28**2, rel=0.02)
    across, down = frames.sum(axis=1).max() * 2.2, frames.sum(axis=0).max() * 2.2
    assert across == pytest.approx(56, abs=1.2)
    assert down == pytest.approx(56, abs=1.2)


def test_the_same_grid_changes_nothing():
    frames = RNG.random((16, 64, 64)).astype(np.float32)
    same = prepare_cine(Cine(frames, (2.2, 2.2), 1), 16, 64, 2.2)
    np.testing.assert_array_equal(same, to_bytes(frames, (1.0, 99.0)))


def test_fine_patterns_do_not_turn_into_coarse_ones():
    board = (np.indices((256, 256)).sum(axis=0) % 2).astype(np.float32)
    frames = np.repeat(board[None], 16, axis=0)
    frames[:, 96:160, 96:160] = 2  # so that there is something to see
    small = prepare_cine(Cine(frames, (0.55, 0.55), 1), 16, 64, 2.2, "image") / 255
    assert small[:, 2:20, 2:20].std() < 0.02


def test_what_lies_outside_the_picture_is_black():
    frames = disc((2.2, 2.2), shape=(40, 40)) + 1
    wide = prepare_cine(Cine(frames, (2.2, 2.2), 1), 16, 64, 2.2)
    assert (wide[:, :11] == 0).all()
    assert wide[:, 32, 32].min() > 0


# Where the heart is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("center", [(0.0, 0.0), (25.0, -30.0)])
def test_what_moves_comes_to_the_middle(center):
    frames = disc((1.4, 1.4), shape=(240, 260), center=center) + 0.0
    frames[:, 20:60, 20:60] = 2.0  # bright, and still
    cut = prepare_cine(Cine(frames, (1.4, 1.4), 1), 16, 64, 2.2, percentiles=(0, 100))
    rows, columns = np.nonzero(cut[0] > 100)
    assert np.mean(rows) == pytest.approx(31.5, abs=1.5)
    assert np.mean(columns) == pytest.approx(31.5, abs=1.5)
    still = prepare_cine(Cine(frames, (1.4, 1.4), 1), 16, 64, 2.2, "image", percentiles=(0, 100))
    rows, _ = np.nonzero(still[0] > 100)
    assert np.mean(rows) == pytest.approx(31.5 + center[0] / 2.2, abs=2)


def test_the_cut_does_not_leave_the_picture():
    frames = disc((2.2, 2.2), shape=(70, 80), center=(-60.0, 60.0)) + 1
    cut = prepare_cine(Cine(frames, (2.2, 2.2), 1), 16, 64, 2.2, percentiles=(0, 100))
    np.testing.assert_array_equal(cut, to_bytes(frames[:, :64, 16:], (0, 100)))


# Time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [9, 25, 50, 31])
def test_any_number_of_frames_shows_one_cycle(count):
    curve = np.cos(2 * np.pi * np.arange(count) / count) - 0.3 * np.sin(4 * np.pi * np.arange(count) / count)
    phase = np.arange(16) / 16
    requested = np.cos(2 * np.pi * phase) - 0.3 * np.sin(4 * np.pi * phase)
    found = in_time(curve[:, None, None].astype(np.float32), 16)[:, 0, 0]
    np.testing.assert_allclose(found, requested, atol=3.2 / count**1.5 if count > 10 else 0.25)
    assert found[0] == pytest.approx(1)


def test_the_cycle_begins_where_it_is_said_to():
    frames = np.arange(12, dtype=np.float32)[:, None, None]
    np.testing.assert_array_equal(in_time(frames, 12, 5)[:, 0, 0], [5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4])
    np.testing.assert_array_equal(in_time(frames, 24, 0)[:4, 0, 0], [0, 0.5, 1, 1.5])
    assert in_time(frames, 24, 0)[23, 0, 0] == 5.5  # half way from the last frame to the first


def test_brightness_is_scaled_between_percentiles():
    frames = np.arange(1000, dtype=np.float32).reshape(10, 10, 10) - 500
    scaled = to_bytes(frames, (10.0, 90.0)).ravel()
    assert (scaled[:100] == 0).all()
    assert (scaled[900:] == 255).all()
    assert scaled[500] == 128
    with pytest.raises(DataError, match="the same throughout"):
        to_bytes(np.ones((2, 3, 3), np.float32), (1.0, 99.0))


# What goes wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cine.nii", "cine.nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
def test_a_file_cut_short_is_reported(tmp_path, name, share):
    path = save(tmp_path, image_of(stack()), name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"cine\.nii.* cannot be read: it is damaged or cut short"):
        read_cine(path)


def broken(value):
    frames = SHOWN.astype(np.float32)
    frames[3, 5, 5] = value
    return image_of(stack(frames))


def zipped(path):
    path.write_bytes(gzip.compress(b"no picture at all" * 50))


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (broken(np.nan), "holds 1 values that are no numbers"),
        (broken(np.inf), "holds 1 values that are no numbers"),
        (image_of(stack(np.zeros_like(SHOWN))), "shows nothing"),
        (image_of(stack(SHOWN[:3])), "has 3 frames; a cine has at least 4"),
        (image_of(stack()[:, :, 2, 0]), "2 axes"),
        (image_of(np.stack([stack()] * 2, axis=-1)), "5 axes"),
        (image_of(stack(), display_affine(0.05), (0.05, 0.05, 9, 1)), "measure 0.05 x 0.05 mm; 0.2 to 10"),
        (image_of(stack(), display_affine(14.0), (14.0, 14.0, 9, 1)), "measure 14 x 14 mm"),
    ],
)
def test_what_is_no_cine_is_reported(tmp_path, image, sentence):
    with pytest.raises(DataError, match=sentence):
        read_cine(save(tmp_path, image))


@pytest.mark.parametrize(("count", "unusual"), [(8, True), (12, False), (50, False), (90, True)])
def test_an_unusual_number_of_frames_is_named_and_used(tmp_path, count, unusual):
    frames = np.resize(SHOWN, (count, HEIGHT, WIDTH))
    cine = read_cine(save(tmp_path, image_of(stack(frames))))
    assert len(cine.frames) == count
    assert any(f"It has {count} frames" in text for text in cine.warnings) == unusual


def test_an_unusual_spacing_is_named_and_used(tmp_path):
    cine = read_cine(save(tmp_path, image_of(stack(), display_affine(4.5), (4.5, 4.5, 9, 1))))
    assert cine.spacing == pytest.approx((4.5, 4.5))
    assert any("measure 4.5 x 4.5 mm, which is unusual" in text for text in cine.warnings)


def test_files_that_are_not_what_they_seem_are_reported(tmp_path):
    with pytest.raises(DataError, match=r"absent\.nii does not exist"):
        read_cine(tmp_path / "absent.nii")
    for name in ("text.nii.gz", "text.nii"):
        zipped(tmp_path / name)
        with pytest.raises(DataError, match="cannot be read"):
            read_cine(tmp_path / name)
    (tmp_path / "cine.dcm").write_bytes(b"DICM")
    with pytest.raises(DataError, match=r"neither NIfTI \(.nii, .nii.gz\) nor NumPy"):
        read_cine(tmp_path / "cine.dcm")


def test_arrays_that_are_no_cine_are_reported(tmp_path):
    path = tmp_path / "cine.npy"
    np.save(path, SHOWN)
    with pytest.raises(DataError, match=r"pixel size of cine\.npy is not known"):
        read_cine(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be read"):
        read_cine(path, 2.0)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        read_cine(path, 2.0)
    np.save(path, SHOWN[0])
    with pytest.raises(DataError, match="is no array of"):
        read_cine(path, 2.0)
    np.savez(tmp_path / "zip.npz", a=SHOWN)
    (tmp_path / "zip.npz").rename(path)
    with pytest.raises(DataError, match="is no array of"):
        read_cine(path, 2.0)


def test_a_header_that_promises_too_much_is_refused_before_it_is_read(tmp_path):
    path = save(tmp_path, image_of(stack()), "cine.nii")
    content = bytearray(path.read_bytes())
    content[42:50] = np.array([30000, 30000, 5, 20], "<i2").tobytes()
    path.write_bytes(content)
    with pytest.raises(DataError, match="30000 x 30000 x 5 x 20: no cine is so large"):
        read_cine(path)


def test_reorientation_of_the_tests_is_what_it_seems():
    codes = orientations.io_orientation(display_affine(1.4))
    assert codes[0].tolist() == [0, -1]  # columns run to the left
