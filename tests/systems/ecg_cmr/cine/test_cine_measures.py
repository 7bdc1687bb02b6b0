"""What is measured in a cine: drawn circles of known areas, and simulated hearts whose truth is known."""

import dataclasses

import numpy as np
import pytest

from simulation.cine import SHORT_AXIS_SPACING, render_cine, render_masks
from simulation.heart_population import draw_heart
from systems.ecg_cmr.cine.contours import ANGLES, Contours, find_contours, otsu
from systems.ecg_cmr.cine.measures import (
    MEASURED,
    ejected,
    indicators_of,
    measure_cine,
    measure_cines,
    shell_mass,
)
from systems.ecg_cmr.sources.cmr_files import to_bytes

FRAMES, SIZE = 8, 64
BLOOD, MUSCLE, LUNG = 0.9, 0.4, 0.1


def share(inside: np.ndarray) -> np.ndarray:
    """Return the share of a pixel within an edge, from the distance inward."""
    return np.clip(inside + 0.5, 0, 1)


def drawn(radii, walls, center=(30.0, 36.0), noise=0.0, turn=180.0) -> np.ndarray:
    """Draw a ventricle of these radii and walls (pixels, a frame each) beside a right one, in lung."""
    rows, columns = np.indices((SIZE, SIZE))
    frames = []
    for radius, wall in zip(radii, walls, strict=True):
        away = np.hypot(rows - center[0], columns - center[1])
        along, across = np.cos(np.radians(turn)), -np.sin(np.radians(turn))
        right = np.hypot(columns - center[1] - 14 * along, rows - center[0] - 14 * across)
        image = np.full((SIZE, SIZE), LUNG)
        for inside, level in (
            (share(12 + 0.3 * radius - right), MUSCLE),
            (share(10 + 0.3 * radius - right), BLOOD),
            (share(radius + wall - away), MUSCLE),
            (share(radius - away), BLOOD),
        ):
            image += inside * (level - image)
        frames.append(image)
    return np.clip(
        np.stack(frames) + noise * np.random.default_rng(0).normal(size=(len(frames), 64, 64)), 0, 1
    )


def contours_in(cine) -> Contours:
    found = find_contours(cine)
    assert found is not None
    return found


def beat(largest: float, smallest: float) -> np.ndarray:
    return smallest + (largest - smallest) * (1 + np.cos(2 * np.pi * np.arange(FRAMES) / FRAMES)) / 2


@pytest.mark.parametrize("turn", [180.0, 120.0, 30.0, 300.0])
def test_borders_of_a_drawn_ventricle_however_the_picture_is_turned(turn):
    radii, walls = beat(10, 7), 5 - 0.2 * (beat(10, 7) - 7)
    found = contours_in(drawn(radii, walls, noise=0.02, turn=turn))
    assert found.endocardium.mean(axis=1) == pytest.approx(radii, abs=0.25)
    assert found.epicardium.mean(axis=1) == pytest.approx(radii + walls, abs=0.4)
    assert found.center == pytest.approx(np.tile([30.0, 36.0], (FRAMES, 1)), abs=0.4)
    assert abs((found.septum - turn + 180) % 360 - 180) < 15


def test_papillary_muscles_belong_to_the_cavity():
    cine = drawn(beat(10, 8), np.full(FRAMES, 5.0))
    rows, columns = np.indices((SIZE, SIZE))
    for row, column in ((26, 40), (34, 40)):
        spot = share(1.5 - np.hypot(rows - row, columns - column))
        cine = cine + spot * (MUSCLE - cine)
    found = contours_in(cine)
    assert found.endocardium.mean(axis=1) == pytest.approx(beat(10, 8), abs=0.3)


def test_nothing_is_found_where_nothing_moves_or_is_round():
    assert find_contours(np.zeros((FRAMES, SIZE, SIZE))) is None
    assert all(np.isnan(value) for value in measure_cine(np.full((FRAMES, SIZE, SIZE), 0.5), 2.2).values())
    with pytest.raises(ValueError, match="shape"):
        find_contours(np.zeros((SIZE, SIZE)))


def test_three_classes_are_parted_between_them():
    values = np.concatenate([np.full(50, 0.1), np.full(30, 0.5), np.full(20, 0.9)])
    low, high = otsu(values)
    assert 0.1 < low <= 0.5 < high <= 0.9


# Geometry -------------------------------------------------------------------------------------------


def contours(inner, outer) -> Contours:
    """Return circles of these radii, pixels, a frame each."""
    spread = np.ones(ANGLES)
    return Contours(np.outer(inner, spread), np.outer(outer, spread), np.zeros((len(inner), 2)), 180.0)


def test_ejected_share_solves_its_equation():
    left = np.array([1.0, 0.6, 0.3])
    found = ejected(left)
    assert found[0] == 0
    assert 1 - found == pytest.approx(left * (1 - 0.28 * found))


def test_shell_mass_by_hand():
    """A wall of 10 mm around a cavity of 25 mm radius and 100 mm length, cut at half the cavity's length."""
    cut = 35**2 * (1 - (50 / 110) ** 2) - 25**2 * 0.75
    mass = 2 / 3 * np.pi * (35**2 * 110 - 25**2 * 100) * 1.05 / 1000
    assert shell_mass(25.0, 100.0, cut) == pytest.approx(mass, rel=1e-3)


def test_indicators_of_a_half_ellipsoid_by_hand():
    """A base radius of 24 mm means a length of 96 mm; two of the frames show the ventricle emptied."""
    base, fraction = 24.0, 0.6
    length = 96 * (1 - 0.28 * fraction)
    emptied = base * np.sqrt((1 - fraction) * 96 / length)
    middle = np.sqrt(0.75)
    inner = np.array([base] * 4 + [emptied] * 4) * middle
    found = indicators_of(contours(inner / 2, (inner + 9) / 2), 2.0)
    assert found["lv_edv"] == pytest.approx(2 / 3 * np.pi * 24**2 * 96 / 1000)
    assert found["ejection_fraction"] == pytest.approx(60)
    assert found["lv_esv"] == pytest.approx(0.4 * found["lv_edv"])
    assert found["wall_thickness"] == pytest.approx(9)


def test_twice_the_pixel_is_eight_times_the_volume():
    radii = beat(10, 7)
    one, two = (indicators_of(contours(radii, radii + 4), spacing) for spacing in (1.0, 2.0))
    assert two["lv_edv"] == pytest.approx(8 * one["lv_edv"])
    assert two["ejection_fraction"] == pytest.approx(one["ejection_fraction"])
    assert two["wall_thickness"] == pytest.approx(2 * one["wall_thickness"])


# Simulated hearts -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hearts():
    return [draw_heart(5, number) for number in range(40)]


@pytest.fixture(scope="module")
def measured(hearts):
    cines = [
        to_bytes(render_cine(heart, np.random.default_rng(number)), (1, 99)) / 255
        for number, heart in enumerate(hearts)
    ]
    return measure_cines(cines, SHORT_AXIS_SPACING)


@pytest.mark.parametrize(
    ("name", "correlation", "error"),
    [
        ("ejection_fraction", 0.97, 1.8),
        ("lv_edv", 0.85, 20),
        ("lv_esv", 0.93, 12),
        ("lv_mass", 0.75, 25),
        ("wall_thickness", 0.90, 1.0),
    ],
)
def test_measures_of_simulated_hearts_agree_with_their_truth(hearts, measured, name, correlation, error):
    truth = np.array([heart.indicators()[name] for heart in hearts])
    assert list(measured) == list(MEASURED)
    assert np.corrcoef(truth, measured[name])[0, 1] > correlation
    assert np.abs(truth - measured[name]).mean() < error


def test_borders_of_a_simulated_heart_enclose_what_is_there(hearts):
    for number in (0, 3):
        cine = render_cine(hearts[number], np.random.default_rng(number))
        masks = render_masks(hearts[number], np.random.default_rng(number))
        found = contours_in(to_bytes(cine, (1, 99)) / 255)
        areas = np.pi * (found.endocardium**2).mean(axis=1)
        assert areas == pytest.approx(masks[2].sum(axis=(1, 2)), rel=0.08)


def test_a_weaker_heart_of_the_same_size_is_measured_as_one(hearts):
    heart = hearts[0]
    values = []
    for fraction in (30.0, 60.0):
        weak = dataclasses.replace(heart, ejection_fraction=fraction)
        cine = to_bytes(render_cine(weak, np.random.default_rng(1)), (1, 99)) / 255
        values.append(measure_cine(cine, SHORT_AXIS_SPACING)["ejection_fraction"])
    assert values == pytest.approx([30, 60], abs=3)
