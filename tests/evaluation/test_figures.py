import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from evaluation.figures import (
    beat_attention_figure,
    calibration_figure,
    confusion_figure,
    learning_curves_figure,
    new_figure,
    precision_recall_figure,
    robust_limits,
    roc_figure,
    save_figure,
)
from evaluation.statistics import cluster_bootstrap

FIGURES = [roc_figure, precision_recall_figure, confusion_figure, calibration_figure]


@pytest.fixture
def units() -> pd.DataFrame:
    random = np.random.default_rng(0)
    label = np.arange(60) % 2
    return pd.DataFrame(
        {
            "session": [f"C{row // 4}" for row in range(60)],
            "fold": np.arange(60) // 20,
            "label": label,
            "probability": np.clip(0.3 + 0.4 * label + 0.2 * random.standard_normal(60), 0, 1),
            "threshold": 0.5,
        }
    )


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def words(figure) -> str:
    texts = [figure.get_suptitle(), *(text.get_text() for text in figure.texts)]
    for axes in figure.axes:
        texts += [text.get_text() for text in axes.texts]
        texts += [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else []
    return "\n".join(texts)


@pytest.mark.parametrize("draw", FIGURES)
def test_figures_are_900_pixels_wide_not_blank_and_say_unit_protocol_and_watermark(draw, units):
    figure = draw(units, unit="recordings", protocol="paper", watermark="selected on test")
    image = pixels(figure)
    assert image.shape[1] == 900
    assert (image < 128).any(axis=-1).mean() > 0.01
    assert all(word in words(figure) for word in ("recordings", "protocol paper", "selected on test"))


def test_roc_and_precision_recall_show_each_fold_the_pool_and_their_reference(units):
    text = words(roc_figure(units, interval=cluster_bootstrap(units, draws=50)))
    assert all(word in text for word in ("fold 0", "fold 2", "pooled", "[", "chance"))
    assert "prevalence  0.500" in words(precision_recall_figure(units))
    assert "fold" not in words(roc_figure(units.assign(fold=-1)))
    assert "fold" not in words(roc_figure(units.drop(columns="fold")))


def test_confusion_shows_counts_and_shares_at_either_threshold(units):
    text = words(confusion_figure(units.assign(threshold=0.0)))
    assert "from validation" in text
    assert text.count("30\n") == 2
    assert "100.0% of the row" in text
    assert "threshold 0.5" in words(confusion_figure(units, threshold=0.5))


@pytest.mark.parametrize("draw", FIGURES)
@pytest.mark.filterwarnings("error")
def test_one_class_is_drawn_without_complaint(draw, units):
    assert pixels(draw(units[units["label"] == 1])).std() > 0


@pytest.mark.parametrize(
    ("maps", "panels"),
    [
        ({}, 2),
        ({"ecg": np.linspace(0, 1, 16)}, 3),
        ({"ecg": [np.ones(100), np.ones(20)], "pcg": [np.ones(100), np.zeros(4)]}, 5),
        ({"pcg": np.ones((3, 7))}, 4),
    ],
)
def test_attention_is_drawn_for_maps_of_any_length_with_a_row_a_level(maps, panels):
    time = np.linspace(0, 1, 100)
    figure = beat_attention_figure(
        time, np.sin(9 * time), np.cos(40 * time), maps, watermark="simulated data"
    )
    assert len(figure.axes) == panels, "signals, levels and a colour bar"
    assert "simulated data" in words(figure)
    assert pixels(figure).std() > 0


def test_attention_shade_follows_the_map():
    time = np.linspace(0, 1, 100)
    figure = beat_attention_figure(time, None, np.zeros(100), {"pcg": [0.0, 1.0]})
    shade = np.asarray(figure.axes[0].images[0].get_array())
    assert shade.shape == (1, 100)
    assert shade[0].tolist() == [0.0] * 50 + [1.0] * 50


@pytest.mark.parametrize(
    ("ecg", "maps"),
    [
        (None, {"ecg": np.ones(4)}),
        (np.zeros(10), {"heart": np.ones(4)}),
        (np.zeros(10), {"ecg": np.ones((2, 3, 4))}),
    ],
)
def test_attention_that_fits_no_signal_is_refused(ecg, maps):
    with pytest.raises(ValueError, match="ttention"):
        beat_attention_figure(np.arange(10), ecg, None, maps)


def test_saved_figures_are_whole_or_not_there(units, tmp_path, monkeypatch):
    figure = roc_figure(units)
    save_figure(figure, tmp_path / "new" / "roc.png")
    assert imread(tmp_path / "new" / "roc.png").shape[1] == 900
    before = (tmp_path / "new" / "roc.png").read_bytes()

    write = Path.write_bytes

    def fail(path, content):
        write(path, content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, tmp_path / "new" / "roc.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["roc.png"]
    assert (tmp_path / "new" / "roc.png").read_bytes() == before


def test_figures_leave_no_global_state(units):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    roc_figure(units).savefig(io.BytesIO())
    assert pyplot.get_fignums() == before


def test_learning_curves_have_a_line_a_fold_and_part_and_a_dot_at_the_epoch_kept():
    rows = [
        {
            "train/loss": 0.9,
            "val/loss": 0.8,
            "val/auroc": 0.6,
            "val/accuracy": 0.1,
            "train/gradient_norm": 9.0,
        },
        {
            "train/loss": 0.5,
            "val/loss": 0.7,
            "val/auroc": 0.7,
            "val/accuracy": 0.1,
            "train/gradient_norm": 9.0,
        },
    ]
    figure = learning_curves_figure({"fold_0": rows, "fold_1": rows[:1]}, {"fold_0": 1, "fold_1": 1})
    loss, auroc = figure.axes
    assert (loss.get_ylabel(), auroc.get_ylabel(), auroc.get_xlabel()) == ("loss", "AUROC", "epoch")
    assert [np.asarray(line.get_ydata()).tolist() for line in loss.lines] == [
        [0.9, 0.5],
        [0.8, 0.7],
        [0.9],
        [0.8],
    ]
    assert [np.asarray(line.get_ydata()).tolist() for line in auroc.lines] == [[0.6, 0.7], [0.6]]
    assert [np.asarray(dot.get_offsets()).tolist() for dot in loss.collections[:2]] == [
        [[1, 0.9]],
        [[1, 0.8]],
    ]
    legend = loss.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["fold 0", "fold 1"]


def test_without_a_score_on_validation_there_is_the_loss_alone():
    figure = learning_curves_figure({"fold_0": [{"train/loss": 1.0, "train/gradient_norm": 2.0}]}, {})
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss"]


def test_a_step_at_the_start_does_not_set_the_axis_and_every_beat_is_inside():
    time = np.arange(0, 30, 0.004)
    beats = np.exp(-(((time % 0.9) - 0.3) ** 2) / 2e-4)
    low, high = robust_limits(beats, 250)
    assert low < beats.min() and high > beats.max()
    stepped = np.where(time < 1.0, 50.0, beats)
    low, high = robust_limits(stepped, 250)
    assert beats.max() < high < 3
    assert robust_limits(np.full(10, np.nan), 250) == (-1.0, 1.0)
    low, high = robust_limits(np.zeros(100), 250)
    assert low < 0 < high


@pytest.mark.parametrize("watermark", ["", "simulated data", "simulated data; selected on test"])
@pytest.mark.parametrize("words", [3, 30])
def test_no_title_leaves_the_figure_or_runs_into_the_watermark(words, watermark):
    figure = new_figure("abnormal recordings " * words, "of 0.1 % abnormal " * words, "session", watermark)
    figure.subplots()
    figure.draw_without_rendering()
    title = next(text for text in figure.texts if "abnormal" in text.get_text())
    assert title.get_window_extent().x1 <= figure.bbox.x1
    if watermark:
        mark = next(text for text in figure.texts if text.get_text() == watermark)
        first = title.get_text().splitlines()[0]
        title.set_text(first)
        assert title.get_window_extent().x1 < mark.get_window_extent().x0
