"""Generated cines as files: nothing that leaves the workspace can be taken for a measured one."""

from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from systems.ecg_cmr.cine.files import LETTER, NOTICE, marked, write_gif, write_nifti, write_strip
from systems.ecg_cmr.figures import agreement, bland_altman_figure, story_figure, strip_of
from systems.ecg_cmr.sources.cmr_files import display_affine, read_cine

CINE = np.random.default_rng(0).random((6, 20, 24))


def test_the_letter_is_burnt_into_every_frame_and_nothing_else_is_changed():
    found = marked(CINE)
    corner = found[:, -6:-1, -5:-1]
    assert (corner == np.where(LETTER, 255, 0)).all()
    rest = np.ones((20, 24), bool)
    rest[-6:-1, -5:-1] = False
    assert (found[:, rest] == np.round(CINE * 255)[:, rest]).all()
    with pytest.raises(ValueError, match="shape"):
        marked(CINE[0])


def test_a_nifti_says_what_it_is_and_lies_as_the_cines_that_are_read(tmp_path):
    write_nifti(tmp_path / "x.nii.gz", CINE, 2.2, display_affine(2.2))
    image: Any = nibabel.load(tmp_path / "x.nii.gz")
    assert b"GENERATED" in bytes(image.header["descrip"])
    assert image.header.extensions[0].get_content() in (NOTICE, NOTICE.encode())
    found = read_cine(tmp_path / "x.nii.gz")
    assert found.spacing == pytest.approx((2.2, 2.2))
    assert (found.frames == marked(CINE)).all()


def test_pictures_say_what_they_are(tmp_path):
    write_gif(tmp_path / "x.gif", CINE)
    write_strip(tmp_path / "x.png", np.stack([CINE, CINE]), frames=3)
    with Image.open(tmp_path / "x.gif") as gif:
        assert (
            getattr(gif, "n_frames", 0) == 6
            and gif.info["loop"] == 0
            and NOTICE.encode() == gif.info["comment"]
        )
        assert gif.size == (24 * 5, 20 * 5 + 16)
        gif.seek(3)
        assert np.asarray(gif.convert("L"))[-14:].max() > 200  # words in the bar
    with Image.open(tmp_path / "x.png") as png:
        assert png.info["Description"] == NOTICE and png.size == (3 * 24 * 3, 2 * 20 * 3 + 16)


def test_a_strip_shows_frames_evenly_over_the_cycle():
    cine = np.arange(8)[:, None, None] * np.ones((8, 2, 2))
    assert strip_of(cine, 4)[0].tolist() == [0, 0, 2, 2, 4, 4, 6, 6]
    assert strip_of(cine, 20).shape == (2, 16)


def test_limits_of_agreement_by_hand():
    found = agreement([10, 20, 30, np.nan], [11, 23, 32, 5])
    assert found.bias == pytest.approx(2)
    assert (found.low, found.high) == pytest.approx((2 - 1.96, 2 + 1.96))
    assert np.isnan(agreement([1], [2]).bias)


def test_figures_state_bias_and_that_cines_are_generated():
    pandas = pytest.importorskip("pandas")
    truth = pandas.DataFrame({"ejection_fraction": [50.0, 60, 70], "lv_mass": [100.0, 120, 150]})
    figure = bland_altman_figure(truth, truth + 2, title="t", subject="s", watermark="simulated data")
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles[0] == "ejection fraction (%)\nbias +2.0 [2.0, 2.0]"
    patient = {
        "name": "v1",
        "ecg": np.sin(np.arange(500.0)),
        "true": CINE,
        "generated": CINE,
        "said": {"true": "EF 60 %", "generated": "EF 55 %"},
    }
    story = story_figure([patient, patient], 100.0, frames=4)
    assert "generated, not measured" in story.get_suptitle()
    assert [axes.get_ylabel() for axes in story.axes[1:3]] == ["true\nEF 60 %", "generated\nEF 55 %"]
    assert story.axes[1].images[0].get_size() == (20, 96)
