"""The heart one can see: what its pictures measure is what is stated of it."""

import dataclasses
import time

import numpy as np
import pytest

from simulation.cine import (
    LONG_AXIS_SPACING,
    SHORT_AXIS_SPACING,
    STRUCTURES,
    phases_of,
    render_cine,
    render_masks,
)
from simulation.cine_cut import cut_long_axis, cut_short_axis, still_pose
from simulation.heart import Scar
from simulation.heart_motion import (
    MID_LEVEL,
    angles_of,
    filled_share,
    la_volume_curve,
    outline,
    rv_volume_curve,
    shell_thickness,
    systole_share,
    volume_curve,
)
from simulation.heart_population import draw_heart
from simulation.physiology import CONDITIONS

FRAMES = 16
PIXEL = SHORT_AXIS_SPACING**2
RV, MYOCARDIUM, LV = range(3)


def heart_of(condition="none", patient=0, **changes):
    """Return a heart of a condition without a hidden scar; changes are of the heart."""
    heart = draw_heart(11, patient, condition=condition, pattern=condition)
    if not condition.endswith("infarction"):
        heart = dataclasses.replace(heart, scar=None)
    return dataclasses.replace(heart, **changes)


def driven(heart, **changes):
    """Return a heart with other drivers."""
    return dataclasses.replace(heart, drivers=dataclasses.replace(heart.drivers, **changes))


def areas(heart, **options):
    """Return the areas of RV, muscle and LV cavity in each frame, square mm, shape (3, frames)."""
    return render_masks(heart, **options).sum(axis=(2, 3), dtype=float) * PIXEL


def ratio(heart, name="lv"):
    """Return the smallest over the largest area of the cavity at mid-level."""
    found = areas(heart)[STRUCTURES.index(name)]
    return found.min() / found.max()


# Volumes and mass -----------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", CONDITIONS)
def test_areas_of_all_slices_add_up_to_volumes_and_mass(condition):
    heart = heart_of(condition, 2)
    phases = phases_of(FRAMES)
    slices = 30
    step = 1.25 / slices  # the wall goes on below the apex of the cavity
    levels = (np.arange(slices, dtype=float) + 0.5) * step
    whole = sum(areas(heart, level=level) for level in levels)
    thickness = step * outline(heart, phases, levels[:1]).length  # mm, in each frame
    volumes = whole * thickness / 1000
    np.testing.assert_allclose(volumes[LV], volume_curve(heart, phases), rtol=0.02)
    np.testing.assert_allclose(volumes[RV], rv_volume_curve(heart, phases), rtol=0.02)
    np.testing.assert_allclose(volumes[MYOCARDIUM] * 1.05, heart.lv_mass, rtol=0.02)


def test_the_curve_goes_from_end_diastole_to_end_systole_and_back():
    for patient in range(40):
        heart = draw_heart(5, patient)
        curve = volume_curve(heart, np.linspace(0, 1, 2001)[:-1])
        assert curve[0] == pytest.approx(heart.lv_edv)
        assert curve.max() <= heart.lv_edv * (1 + 1e-9)
        assert curve.min() == pytest.approx(heart.lv_esv)
        assert volume_curve(heart, np.array([systole_share(heart)])) == pytest.approx(heart.lv_esv)
        lowest = np.argmin(curve)
        assert (np.diff(curve[: lowest + 1]) <= 1e-9).all()
        assert (np.diff(curve[lowest:]) >= -1e-9).all()
        assert rv_volume_curve(heart, np.zeros(1)) == pytest.approx(heart.rv_edv)
        assert la_volume_curve(heart, np.array([systole_share(heart)])) == pytest.approx(heart.la_volume)


def test_end_diastole_is_the_first_frame_and_end_systole_where_the_curve_says():
    for patient in range(8):
        heart = draw_heart(6, patient)
        cavity = areas(heart)[LV]
        assert np.argmax(cavity) == 0
        assert np.argmin(cavity) / FRAMES == pytest.approx(systole_share(heart), abs=1.5 / FRAMES)


def test_a_fast_heart_spends_more_of_its_cycle_in_systole():
    heart = driven(heart_of(), sex="male", rhythm="sinus")
    # 546 - 2.1 * 60 ms of electromechanical systole, 50 of them before the R wave, of a second
    assert systole_share(driven(heart, heart_rate=60.0)) == pytest.approx(0.370)
    assert systole_share(driven(heart, heart_rate=90.0)) == pytest.approx(0.307 / (60 / 90))


def test_fibrillating_atria_do_not_kick():
    heart = driven(heart_of(), rhythm="sinus", age=70.0)
    late = np.array([0.85, 0.99])
    before, after = filled_share(heart, late)
    assert after - before > 0.25
    before, after = filled_share(driven(heart, rhythm="fibrillation"), late)
    assert after - before < 0.05


def test_the_wall_is_that_of_the_half_ellipsoid():
    for patient in range(5):
        heart = draw_heart(7, patient)
        wall = shell_thickness(np.array([heart.lv_radius]), np.array([heart.lv_length]), heart.lv_mass)
        assert wall[0] == pytest.approx(heart.mean_wall, rel=1e-9)


# What is measured in one slice ----------------------------------------------------------------------


def test_the_ejection_fraction_measured_is_the_hearts_own():
    """At one level area goes as volume over length, and length shortens by .28 of the ejection fraction."""
    errors = []
    for patient in range(30):
        heart = draw_heart(8, patient)
        left = ratio(heart)
        errors.append(100 * (1 - left) / (1 - 0.28 * left) - heart.ejection_fraction)
    assert np.abs(errors).max() < 1.5


def test_strains_measured_are_the_hearts_own():
    heart = heart_of("none", 3)
    assert 100 * (np.sqrt(ratio(heart)) - 1) == pytest.approx(heart.circumferential_strain, abs=1)
    shape = outline(heart, np.array([0.0, systole_share(heart)]), np.array([MID_LEVEL]))
    assert 100 * (shape.wall[1] / shape.wall[0] - 1) == pytest.approx(heart.radial_strain, abs=0.1)
    assert 100 * (shape.length[1] / shape.length[0] - 1) == pytest.approx(heart.longitudinal_strain, abs=0.1)


def test_the_septum_measured_is_as_thick_as_stated():
    for patient, condition in enumerate(("none", "hypertrophic", "dilated", "pulmonary hypertension")):
        heart = heart_of(condition, patient + 4)
        muscle = render_masks(heart, size=65, pixel_spacing=2.2)[MYOCARDIUM, 0]  # a row through the middle
        row = muscle[32]
        axis = 32 + 15 / 2.2  # the heart lies 15 mm to the right
        septum = row[: round(axis)].sum() * 2.2
        assert septum == pytest.approx(heart.wall_thickness, abs=0.4)


def test_walls_thicken_while_the_heart_contracts():
    heart = heart_of("none", 5)
    shape = outline(heart, np.array([0.0, systole_share(heart)]), np.array([MID_LEVEL]))
    thickness = (shape.epicardium - shape.endocardium)[:, 0]
    assert (thickness[1] > 1.2 * thickness[0]).all()


# Scars ----------------------------------------------------------------------------------------------


SCAR = Scar(angle=30.0, extent=90.0, base=0.0, apex=1.0, thinning=0.4, akinesia=1.0)


def test_a_scar_is_thin_and_hardly_moves_and_the_volumes_stay():
    heart = heart_of("none", 6, ejection_fraction=50.0)
    scarred = dataclasses.replace(heart, scar=SCAR)
    phases = np.array([0.0, systole_share(heart)])
    shapes = [outline(one, phases, np.array([MID_LEVEL]), 360) for one in (heart, scarred)]
    inward = [(shape.endocardium[0] - shape.endocardium[1])[0] for shape in shapes]
    thickness = [(shape.epicardium - shape.endocardium)[0, 0] for shape in shapes]
    assert inward[1][30] < 0.3 * inward[0][30]
    assert inward[1][210] > inward[0][210]
    assert thickness[0][30] == pytest.approx(thickness[0][105])  # both outside the septum
    assert thickness[1][30] == pytest.approx(0.6 * thickness[1][105])
    np.testing.assert_allclose(areas(scarred)[LV], areas(heart)[LV], rtol=0.005)
    np.testing.assert_allclose(areas(scarred)[MYOCARDIUM], areas(heart)[MYOCARDIUM], rtol=0.01)


def test_a_scar_is_where_it_is_said_to_be_in_the_picture():
    """Lateral on the right, anterior up, septum on the left, inferior down; and along the axis."""
    heart = heart_of("none", 6, ejection_fraction=50.0)
    row, column = np.indices((64, 64))
    x, y = (column - 31.5) * SHORT_AXIS_SPACING - 15, (31.5 - row) * SHORT_AXIS_SPACING
    turn = np.degrees(np.arctan2(y, x))
    for angle in (0, 90, 180, 270):
        scar = dataclasses.replace(SCAR, angle=float(angle), base=0.3, apex=0.7)
        scarred = dataclasses.replace(heart, scar=scar)
        sector = np.abs((turn - angle + 180) % 360 - 180) < 25
        for level, moves in ((MID_LEVEL, False), (0.1, True)):
            cavity = (render_masks(scarred, level=level)[LV] * sector).sum(axis=(1, 2))
            whole = (render_masks(heart, level=level)[LV] * sector).sum(axis=(1, 2))
            lost = (cavity[0] - cavity.min()) / (whole[0] - whole.min())
            assert lost == pytest.approx(1, abs=0.05) if moves else lost < 0.35


def test_a_scar_in_a_vigorous_heart_leaves_the_rest_room_to_move():
    heart = heart_of("none", 6, ejection_fraction=78.0)
    scarred = dataclasses.replace(heart, scar=dataclasses.replace(SCAR, extent=150.0))
    shape = outline(scarred, phases_of(FRAMES), np.array([MID_LEVEL]))
    assert shape.endocardium.min() > 3
    np.testing.assert_allclose(areas(scarred)[LV], areas(heart)[LV], rtol=0.02)


# The picture ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("contrast", [1.8, 2.6, 3.4])
@pytest.mark.parametrize("long_axis", [False, True])
def test_blood_is_brighter_than_muscle_as_stated(contrast, long_axis):
    found = []
    for patient in range(6):
        heart = heart_of("none", patient, blood_contrast=contrast)
        image = render_cine(heart, np.random.default_rng(patient), long_axis=long_axis)
        masks = render_masks(heart, np.random.default_rng(patient), long_axis=long_axis)
        blood, muscle = (np.median(image[masks[part] > 0.99]) for part in (LV, MYOCARDIUM))
        found.append(blood / muscle)
    assert np.mean(found) == pytest.approx(contrast, rel=0.05)


def test_masks_of_the_same_stream_fit_the_picture_and_others_do_not():
    heart = draw_heart(3, 7)
    image = render_cine(heart, np.random.default_rng(1))
    own = render_masks(heart, np.random.default_rng(1))
    other = render_masks(heart, np.random.default_rng(2))
    spread = [image[masks[MYOCARDIUM] > 0.99].std() for masks in (own, other)]
    assert spread[0] < 0.6 * spread[1]


@pytest.mark.parametrize("long_axis", [False, True])
def test_the_same_seed_draws_the_same_and_another_does_not(long_axis):
    heart = draw_heart(3, 8)
    first, again, other = (
        render_cine(heart, np.random.default_rng(seed), long_axis=long_axis) for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.1
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert np.isfinite(first).all()


def test_a_picture_has_the_shape_asked_for():
    heart = draw_heart(3, 9)
    image = render_cine(heart, np.random.default_rng(0), frames=9, size=40, pixel_spacing=3.5)
    assert image.shape == (9, 40, 40)
    assert render_masks(heart, frames=9, size=40).shape == (3, 9, 40, 40)
    # finer pixels show the same field: the heart covers the same share of it
    coarse, fine = (render_masks(heart, size=size)[LV, 0].mean() for size in (64, 96))
    assert fine == pytest.approx(coarse, rel=0.01)


@pytest.mark.parametrize("options", [{"frames": 0}, {"size": 4}, {"pixel_spacing": 0.0}])
def test_what_is_no_cine_is_refused(options):
    with pytest.raises(ValueError, match="are no cine"):
        render_cine(draw_heart(3, 9), np.random.default_rng(0), **options)


@pytest.mark.parametrize("long_axis", [False, True])
def test_ventricles_lie_within_the_picture_whatever_the_pose(long_axis):
    outside = 0
    for patient in range(60):
        masks = render_masks(draw_heart(9, patient), np.random.default_rng(patient), 4, long_axis=long_axis)
        assert masks.min() > -1e-6
        assert masks.sum(axis=0).max() < 1 + 1e-5
        edges = [masks[..., 0, :], masks[..., -1, :], masks[..., :, 0], masks[..., :, -1]]
        outside += max(edge.max() for edge in edges) > 0
    assert outside <= 1


def test_breathing_moves_the_picture_a_little_and_no_more():
    heart = draw_heart(3, 10)
    still, moved = areas(heart)[LV], areas(heart, rng=np.random.default_rng(3))[LV]
    assert np.abs(moved / still - 1).max() < 0.15
    assert np.abs(moved / still - 1).max() > 0.001


def test_two_thousand_cines_take_less_than_a_minute():
    hearts = [draw_heart(9, patient) for patient in range(20)]
    begin = time.process_time()
    for patient, heart in enumerate(hearts):
        render_cine(heart, np.random.default_rng(patient))
    assert (time.process_time() - begin) / len(hearts) < 60 / 2000


# Long axis ------------------------------------------------------------------------------------------


def test_the_long_axis_gives_length_and_volume():
    for patient in range(4):
        heart = heart_of("none", patient)
        cavity = render_masks(heart, long_axis=True)[LV].astype(float)
        area = cavity.sum(axis=(1, 2)) * LONG_AXIS_SPACING**2
        smallest = np.argmin(area)
        length = heart.lv_length * np.array([1, 1 + heart.longitudinal_strain / 100])
        volume = 8 * area[[0, smallest]] ** 2 / (3 * np.pi * length) / 1000  # of area and length
        np.testing.assert_allclose(volume, [heart.lv_edv, heart.lv_esv], rtol=0.05)


def test_the_apex_stays_and_the_base_comes_down_to_it():
    heart = heart_of("none", 2)
    pose = dataclasses.replace(still_pose(FRAMES, True), rotation=0.0)
    cavity = cut_long_axis(heart, pose, phases_of(FRAMES), 96, 2.0).lv
    rows = [np.flatnonzero(frame.max(axis=1) > 0.5) for frame in cavity]
    smallest = np.argmin([len(found) for found in rows])
    assert abs(int(rows[smallest][0]) - int(rows[0][0])) <= 1
    shortening = -heart.longitudinal_strain / 100 * heart.lv_length
    assert (rows[0][-1] - rows[smallest][-1]) * 2.0 == pytest.approx(shortening, abs=3)


def test_the_atria_are_as_large_as_stated():
    heart = heart_of("none", 3, la_volume=60.0)
    larger = dataclasses.replace(heart, la_volume=120.0)
    found = [
        cut_long_axis(one, still_pose(FRAMES, True), phases_of(FRAMES), 64, 3.0).atria.sum(axis=(1, 2))
        for one in (heart, larger)
    ]
    assert found[1].max() / found[0].max() == pytest.approx(2 ** (2 / 3), rel=0.1)
    assert np.argmax(found[0]) / FRAMES == pytest.approx(systole_share(heart), abs=1.5 / FRAMES)
    circles = np.pi * np.cbrt(0.75 / np.pi * 60e3 * np.array([1, 0.9])) ** 2  # left and right
    assert found[0].max() * 9 == pytest.approx(circles.sum(), rel=0.12)


# Diseases -------------------------------------------------------------------------------------------


def means(condition):
    """Return what one measures in ten hearts of a condition, on average."""
    rows = []
    for patient in range(10):
        heart = heart_of(condition, patient)
        right, muscle, left = areas(heart)
        ends = [0, int(np.argmin(left))]
        masks = render_masks(heart)[LV][ends]
        wide, high = masks.max(axis=1).sum(axis=1), masks.max(axis=2).sum(axis=1)
        rows.append([left[0], left[ends[1]] / left[0], right[0] / left[0], muscle[0], *(wide / high)])
    names = ("cavity", "left", "right", "muscle", "round", "round_systole")
    return dict(zip(names, np.mean(rows, axis=0), strict=True))


@pytest.fixture(scope="module")
def measured():
    return {condition: means(condition) for condition in CONDITIONS}


def test_diseases_look_like_themselves(measured):
    normal = measured["none"]
    assert measured["dilated"]["cavity"] > 1.25 * normal["cavity"]
    assert measured["dilated"]["left"] > normal["left"] + 0.1
    assert measured["hypertrophic"]["muscle"] > 1.35 * normal["muscle"]
    assert measured["hypertrophic"]["left"] < normal["left"]
    assert measured["restrictive"]["muscle"] > 1.1 * normal["muscle"]
    assert measured["restrictive"]["cavity"] < normal["cavity"]
    assert measured["anterior infarction"]["left"] > normal["left"] + 0.05
    assert measured["pulmonary hypertension"]["right"] > 1.25 * normal["right"]


def test_pressure_in_the_right_ventricle_flattens_the_septum(measured):
    assert measured["none"]["round"] == pytest.approx(1, abs=0.02)
    assert measured["none"]["round_systole"] == pytest.approx(1, abs=0.03)
    loaded = measured["pulmonary hypertension"]
    assert loaded["round_systole"] < loaded["round"] < 0.99
    assert loaded["round_systole"] < 0.92


def test_the_free_wall_of_the_right_ventricle_is_as_thick_as_stated():
    heart = heart_of("pulmonary hypertension", 1, rv_wall=7.0)
    shape = outline(heart, np.zeros(1), np.array([MID_LEVEL]), 36)
    assert (shape.right_wall - shape.right)[0, 0, 18] == pytest.approx(7.0)
    cut = cut_short_axis(heart, still_pose(1, False), np.zeros(1), 64, 2.2, MID_LEVEL)
    assert (cut.right_wall - cut.right).sum() > 100


def test_angles_begin_at_the_lateral_wall():
    np.testing.assert_array_equal(angles_of(4), [0, 90, 180, 270])
