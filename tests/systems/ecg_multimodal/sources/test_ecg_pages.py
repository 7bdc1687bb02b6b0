"""Whole pages in place of a strip: recognized on pages drawn from PTB-XL; strips are never taken for one."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.ecg import LEADS, read_ecg
from datasets.sources import DataError
from systems.ecg_multimodal.settings import ModalitySettings
from systems.ecg_multimodal.sources.ecg_image import draw_ecg, draw_sheet, read_ecg_image, write_picture
from systems.ecg_multimodal.sources.modalities import PreparedPatient, prepare_patient

STRIP: dict[str, Any] = {"width": 1250, "height": 125}
SHEET: dict[str, Any] = {"width": 1250, "height": 500}
SCAN: dict[str, Any] = {"rotation": 2.0, "shadow": 0.4, "noise": 0.03}


@pytest.fixture(scope="module")
def records(ptbxl_dir):
    """Return three ECGs of twelve leads."""
    files = sorted(ptbxl_dir.glob("records*/**/*.hea"))[::200]
    return [read_ecg(file, ptbxl_dir, LEADS) for file in files]


def photographed(picture: np.ndarray) -> np.ndarray:
    """Return a sheet on a dark table, seen askew."""
    height, width = picture.shape[:2]
    table = Image.new("RGB", (width + 200, height + 200), (60, 40, 30))
    table.paste(Image.fromarray(picture), (100, 100))
    right, bottom = table.size
    corners = (30, -20, -25, bottom + 40, right + 20, bottom - 30, right - 40, 35)
    return np.asarray(table.transform(table.size, Image.Transform.QUAD, corners, Image.Resampling.BILINEAR))


def pages(ecg) -> dict[str, np.ndarray]:
    leads = [draw_ecg(lead, ecg.sampling_rate, **STRIP) for lead in ecg.samples]
    scan = draw_sheet(ecg.samples, ecg.sampling_rate, **SHEET, **SCAN)
    return {
        "3 x 4 and rhythm strip": draw_sheet(
            ecg.samples, ecg.sampling_rate, **SHEET, text="Doe, Jane 25 mm/s"
        ),
        "scanned": scan,
        "photographed": photographed(scan),
        "12 x 1": np.vstack(leads),
        "3 x 1": np.vstack(leads[:3]),
    }


def strips(ecg) -> dict[str, np.ndarray]:
    lead, rate = ecg.samples[LEADS.index("II")], ecg.sampling_rate
    high = draw_ecg(lead, rate, width=1250, height=500, text="II 25 mm/s 10 mm/mV", **SCAN)
    return {
        "strip": draw_ecg(lead, rate, **STRIP),
        "scanned": draw_ecg(lead, rate, **STRIP, **SCAN),
        "on much paper": high,
    }


@pytest.mark.parametrize("record", range(3))
def test_pages_are_refused_and_strips_are_read(records, record, tmp_path):
    file = tmp_path / "picture.jpg"
    for name, picture in pages(records[record]).items():
        write_picture(file, picture)
        try:
            read_ecg_image(file, 64, strip=True)
        except DataError as error:
            assert "shows a page with about" in str(error), name
            assert "Expected is a strip of lead II alone" in str(error)
        else:
            pytest.fail(f"{name} was taken for a strip")
    for name, picture in strips(records[record]).items():
        write_picture(file, picture)
        assert read_ecg_image(file, 64, strip=True).any(), name


def test_a_page_is_no_image_of_a_patient_but_for_sheets(make_patients):
    root = make_patients(1)
    wave = np.random.default_rng(0).normal(0, 0.1, (12, 2500)).cumsum(axis=1) / 5
    write_picture(root / "images/1/001ECG_lead2.jpg", draw_sheet(wave, 250.0))
    row = {"recording": "1", "signal": "", "image": "images/1/001ECG_lead2.jpg"}
    given: dict[str, Any] = {"root": root, "leads": ("II",), "signal_rate": 250.0, "drawn": False}
    found, as_sheet = (
        prepare_patient(row, settings=ModalitySettings(sheet=sheet), **given) for sheet in (False, True)
    )
    assert isinstance(found, PreparedPatient) and isinstance(as_sheet, PreparedPatient)
    assert found.image is None
    (problem,) = found.problems
    assert "page with about 4 rows" in problem.what and problem.what.endswith("It is used without image.")
    assert as_sheet.image is not None


def test_a_strip_is_doubted_where_a_page_is_expected(records, tmp_path):
    def said(picture: np.ndarray, height: int) -> str:
        notes: list[str] = []
        write_picture(tmp_path / "x.png", picture)
        read_ecg_image(tmp_path / "x.png", height, 640, notes)
        return " ".join(notes)

    strip = strips(records[0])
    for name in ("strip", "scanned"):
        assert "as wide as a strip" in said(strip[name], 256) and not said(strip[name], 64)
    for picture in pages(records[0]).values():
        assert "as wide as a strip" not in said(picture, 256)
