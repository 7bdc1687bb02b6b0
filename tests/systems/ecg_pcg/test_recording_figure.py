"""The figure of one recording: what is drawn where, and what is written on it."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.text import Text

from evaluation.figures import save_figure
from systems.base.predictor import DISCLAIMER, thin
from systems.ecg_pcg.figure import Contributions, MeanAttention, Trace, recording_figure

SPANS = np.stack([np.arange(0.5, 9.5, 0.9), np.arange(0.5, 9.5, 0.9) + 0.9], axis=1)


def trace(seed: int, rate: float = 2000.0, seconds: float = 10.5) -> Trace:
    return Trace(np.random.default_rng(seed).normal(size=round(seconds * rate)).astype(np.float32), rate)


BOTH = {"ecg": trace(0), "pcg": trace(1)}


def written(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


def labels(figure: Figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes]


def test_thinning_keeps_every_peak_at_its_place():
    samples = np.zeros(100_000)
    samples[[12_345, 77_777]] = 3.0, -2.0
    times, values = thin(samples, 1000.0, points=1000)
    assert len(values) <= 1000
    assert (values.max(), values.min()) == (3.0, -2.0)
    assert times[values.argmax()] == pytest.approx(12.345, abs=0.2)
    assert times[values.argmin()] == pytest.approx(77.777, abs=0.2)
    short = np.arange(10.0)
    assert np.array_equal(thin(short, 1000.0)[1], short)


def test_thinning_leaves_gaps():
    samples = np.ones(100_000)
    samples[20_000:60_000] = np.nan
    _, values = thin(samples, 1000.0, points=1000)
    assert np.isnan(values).mean() == pytest.approx(0.4, abs=0.01)


def test_every_beat_is_drawn_at_its_probability():
    probability = np.linspace(0, 1, len(SPANS))
    figure = recording_figure(BOTH, SPANS, title="a", beat_probability=probability, probability=0.5)
    assert labels(figure) == ["ECG", "heart sound", "each beat", "ECG", "heart sound"]
    lines = next(item for item in figure.axes[2].collections if isinstance(item, LineCollection))
    drawn = np.array([segment[:, 1] for segment in lines.get_segments()])
    assert drawn[:, 0] == pytest.approx(probability)
    starts = np.array([segment[0, 0] for segment in lines.get_segments()])
    assert starts == pytest.approx(SPANS[:, 0])
    assert "10th to 90th percentile of the beats" in written(figure)


def test_beats_are_marked_in_the_part_drawn_large():
    figure = recording_figure(BOTH, SPANS, title="a", beat_label="starts of beats, by annotation")
    large = figure.axes[2]
    first, last = large.get_xlim()
    assert last - first == pytest.approx(4.0)
    marks = sorted(
        float(np.asarray(line.get_xdata())[0]) for line in large.lines if line.get_linestyle() == "--"
    )
    assert marks == pytest.approx([start for start in SPANS[:, 0] if first <= start <= last])
    assert len(marks) >= 4
    assert "starts of beats, by annotation" in written(figure)


@pytest.mark.parametrize("traces", [{"pcg": trace(1)}, {"ecg": trace(0, 250.0, 3.0)}])
def test_one_signal_and_short_ones_are_drawn(traces, tmp_path):
    figure = recording_figure(traces, np.zeros((0, 2)), title="a")
    assert len(figure.axes) == 2
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_title_warning_and_disclaimer_are_written():
    name = "a/long/way/" * 9 + "down"
    figure = recording_figure(
        BOTH, SPANS, title=name, subtitle="probability 0.7", watermark="trained on noise"
    )
    text = written(figure)
    assert "trained on noise" in text
    assert "probability 0.7" in text
    assert DISCLAIMER in text
    assert "…" in text
    assert name not in text


def test_a_warning_covers_no_other_words():
    subtitle = "probability of abnormal above 0.99 if a share of 0.5 is abnormal, 0.95 if 0.05 is"
    figure = recording_figure(
        BOTH, SPANS, title="W" * 50, subtitle=subtitle, watermark="trained on this recording"
    )
    figure.draw_without_rendering()
    title = next(text for text in figure.texts if subtitle in " ".join(text.get_text().split()))
    assert title.get_window_extent().x1 < figure.bbox.x1, "nothing is clipped"
    watermark = next(text for text in figure.texts if text.get_text() == "trained on this recording")
    box, lines = watermark.get_window_extent(), title.get_window_extent()
    count = len(title.get_text().splitlines())
    assert box.y0 > lines.y1 - (lines.y1 - lines.y0) * 1.2 / count, "the lines below the title are free"
    title.set_text("W" * 20)
    assert title.get_window_extent().x1 < box.x0


def test_contributions_are_drawn_cell_by_cell(tmp_path):
    grid = np.arange(12.0).reshape(4, 3) - 5
    contributions = Contributions(
        {"ECG": -0.5, "heart sound": 2.0}, grid, {"S1": 1, "systole": 3}, np.array([20, 40, 80, 160])
    )
    figure = recording_figure(BOTH, SPANS, title="a", contributions=contributions)
    mesh = next(item for axes in figure.axes for item in axes.collections if isinstance(item, QuadMesh))
    assert np.array_equal(np.asarray(mesh.get_array()).reshape(3, 4), grid.T)
    assert mesh.get_clim() == (-6.0, 6.0), "no contribution is white"
    text = written(figure)
    for word in ("-0.50", "+2.00", "+1.50", "systole"):
        assert word in text
    save_figure(figure, tmp_path / "a.png")


def test_a_model_of_the_ecg_alone_has_no_map():
    figure = recording_figure(BOTH, SPANS, title="a", contributions=Contributions({"ECG": 0.3}))
    assert not any(isinstance(item, QuadMesh) for axes in figure.axes for item in axes.collections)
    assert "+0.30" in written(figure)
    assert "sum" not in written(figure)


def test_attention_of_both_signals_has_one_scale():
    beats = {modality: np.sin(np.arange(50)) for modality in ("ecg", "pcg")}
    attention = {"ecg": np.linspace(0.1, 0.2, 50), "pcg": np.linspace(0.5, 0.9, 50)}
    figure = recording_figure(BOTH, SPANS, title="a", mean_attention=MeanAttention(beats, attention))
    images = [image for axes in figure.axes for image in axes.images]
    assert [image.get_clim() for image in images] == [(0.1, 0.9)] * 2
    assert np.asarray(images[1].get_array())[0] == pytest.approx(attention["pcg"])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="ecg, pcg or both"):
        recording_figure({"eeg": trace(0)}, SPANS, title="a")
    with pytest.raises(ValueError, match="3 probabilities were given for 10 beats"):
        recording_figure(BOTH, SPANS, title="a", beat_probability=np.ones(3))
