"""Attention and attribution over the cardiac cycle: beat-level beside session-level split.

    python -m studies.physionet2016.explanation --beat pacfnet-beat-seed0 --session pacfnet-session-seed0
    python -m studies.physionet2016.explanation --beats 16 --steps 128 --device cuda

Explains the network of each fold on beats of its test part, and writes explanation.png, explanation.csv
and, from the linear model, linear_map.png to results/physionet2016. Needs the runs in checkpoints/ that
``python -m studies.physionet2016`` makes, and their cache. About 4 minutes on one core for small networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from common.command_line import read_settings
from common.errors import UserError
from common.files import write_table
from common.script import run_script
from config import EvaluationSettings
from datasets.cache import Cache, find_cache
from evaluation.figures import BLUE, GREY, INK, VERMILLION, new_figure, save_figure, set_text_sizes
from evaluation.report import watermarked
from learning.checkpoint import Checkpoint, load_checkpoint
from learning.devices import set_threads
from learning.runs import find_checkpoints
from systems.ecg_pcg.explain.attribution import check_checkpoints, explain_folds, linear_coefficients
from systems.ecg_pcg.explain.cycle import (
    STATES,
    WHOLE,
    CycleMeans,
    PhaseAxis,
    beat_onsets,
    over_cycle,
    phase_axis,
    share_table,
)
from systems.ecg_pcg.features.spectral import BAND_EDGES, ECG_EDGES, FRAME, RATE, STATE_PARTS

ROOM = 0.2
"""Room for the legend above the curves, as a share of their height."""
SIGNALS = {"ecg": ("ECG", BLUE), "pcg": ("sound", VERMILLION)}
CLASSES = {0: ("normal", GREY), 1: ("abnormal", INK)}
LOOKS = {"attribution": "integrated gradients", "attention": "spatial attention"}
"""Quantities in the figure, each with its name there."""
DIVERGING = LinearSegmentedColormap.from_list("coefficient", [BLUE, "#FFFFFF", VERMILLION])
LEGEND_STYLE: dict[str, Any] = {"loc": "upper right", "ncols": 2, "frameon": False, "fontsize": 10}
LEGEND_STYLE |= {"handlelength": 1.2, "columnspacing": 1.0, "borderaxespad": 0.1}


@dataclass(frozen=True)
class Column:
    """A column of the figure: a run, its averages over the cycle, and its rows of the table."""

    heading: str
    means: CycleMeans
    table: pd.DataFrame

    def rows(self, quantity: str, signal: str) -> pd.DataFrame:
        """Return the table's rows of a quantity of a signal, by state."""
        chosen = (self.table["quantity"] == quantity) & (self.table["signal"] == signal)
        return self.table[chosen].set_index("state")


def cycle_figure(columns: Sequence[Column], watermark: str = "") -> Figure:
    """Draw waveforms by class, and where each run looks, over the cardiac cycle; a column a run."""
    quantities = [name for name in LOOKS if any(name in column.means.looks for column in columns)]
    heights = [1.0, 1.0, *[1.8] * len(quantities)]
    legend = "thick: mean of a state, 95 % interval"
    figure = tall_figure("Where networks look in a heartbeat", legend, watermark, 2.0 + 1.35 * sum(heights))
    panels = figure.subplots(
        len(heights), len(columns), sharex=True, sharey="row", height_ratios=heights, squeeze=False
    )
    for position, column in enumerate(columns):
        for axes in panels[:, position]:
            mark_states(axes, column.means.axis.marks)
        draw_waveforms(panels[:2, position], column.means)
        for axes, quantity in zip(panels[2:, position], quantities, strict=True):
            draw_look(axes, column, quantity)
        name_states(panels[0, position], column.means.axis.marks)
        panels[0, position].set_title(column.heading, fontsize=12, pad=20)
        panels[-1, position].set_xlabel("phase of the cardiac cycle")
    labels = ["ECG,\nmean z", "sound,\nmean |z|", *(f"{LOOKS[name]},\n1 is even" for name in quantities)]
    for row, label in zip(panels, labels, strict=True):
        row[0].set_ylabel(label, fontsize=11)
        low, high = row[0].get_ylim()
        low = 0.0 if label.startswith(LOOKS["attribution"]) else low
        row[0].set_ylim(low, high + ROOM * (high - low))
    figure.align_ylabels(panels[:, 0])
    return figure


def tall_figure(title: str, second_line: str, watermark: str, height: float) -> Figure:
    """Return an empty figure of a height in inches, its watermark as far from the top as in the others."""
    figure = new_figure(title, second_line, "", watermark)
    for text in figure.texts:
        if text.get_text() == watermark:
            text.set_y(1 - (1 - text.get_position()[1]) * figure.get_figheight() / height)
    figure.set_figheight(height)
    return figure


def draw_waveforms(panels: NDArray[Any], means: CycleMeans) -> None:
    """Draw the mean ECG and the mean absolute heart sound of each class, a panel each."""
    label = means.recordings["label"].to_numpy()
    for axes, name in zip(panels, SIGNALS, strict=True):
        for value, (word, color) in CLASSES.items():
            if (label == value).any():
                curve = means.waveforms[name][label == value].mean(axis=0)
                draw_curve(axes, means.axis, curve, color=color, label=word, linewidth=1.6)
    panels[0].legend(**LEGEND_STYLE)


def draw_look(axes: Axes, column: Column, quantity: str) -> None:
    """Draw a quantity of each signal over the cycle, and its mean in each state with the interval."""
    axis, maps = column.means.axis, column.means.looks.get(quantity, {})
    if not maps:
        axes.text(0.5, 0.5, f"no {LOOKS[quantity]}", transform=axes.transAxes, ha="center", color=GREY)
        return
    axes.axhline(1, color="#BDBDBD", linewidth=1)
    even = column.means.time.mean(axis=0) / len(maps)
    for number, (name, shares) in enumerate(maps.items()):
        word, color = SIGNALS[name]
        draw_curve(axes, axis, np.nanmean(shares, axis=0) / even, color=color, linewidth=1.1, alpha=0.6)
        rows = column.rows(quantity, name)
        text = f"{word} {rows.loc[WHOLE, 'share']:.0%} of all"
        rows = rows.loc[list(STATES)]
        draw_levels(axes, axis.marks, rows["enrichment"], color=color, linewidth=2.6, label=text)
        middle = (axis.marks[:-1] + axis.marks[1:]) / 2 + 0.02 * (number - (len(maps) - 1) / 2)
        axes.vlines(middle, rows["enrichment_low"], rows["enrichment_high"], color=color, linewidth=1.6)
    if quantity == "attribution":
        draw_amplitude(axes, column)
    axes.legend(**LEGEND_STYLE)


def draw_amplitude(axes: Axes, column: Column) -> None:
    """Draw the mean amplitude in each state: what attribution owes to the loudness of the signal alone."""
    style: dict[str, Any] = {"linewidth": 1.8, "linestyle": (0, (1.0, 1.2))}
    for name in column.means.looks["amplitude"]:
        levels = column.rows("amplitude", name).loc[list(STATES), "enrichment"]
        draw_levels(axes, column.means.axis.marks, levels, color=SIGNALS[name][1], **style)
    axes.plot([], [], color=INK, label="amplitude", **style)


def draw_levels(axes: Axes, marks: NDArray[np.float64], levels: pd.Series, **style: Any) -> None:
    """Draw one value of each state as a line across it."""
    axes.hlines(levels, marks[:-1], marks[1:], **style)


def draw_curve(axes: Axes, axis: PhaseAxis, curve: NDArray[np.float64], **style: Any) -> None:
    """Draw values of the parts of the cycle at their middles."""
    axes.plot((axis.edges[:-1] + axis.edges[1:]) / 2, curve, **style)


def mark_states(axes: Axes, marks: NDArray[np.float64]) -> None:
    """Shade both heart sounds and draw the onsets."""
    for start in (0, 2):
        axes.axvspan(marks[start], marks[start + 1], color="#EDEDED", zorder=0, linewidth=0)
    for mark in marks[1:-1]:
        axes.axvline(mark, color="#C4C4C4", linewidth=0.8, zorder=0.5)
    axes.set_xlim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    set_text_sizes(axes)


def name_states(axes: Axes, marks: NDArray[np.float64]) -> None:
    """Write the names of the states above the axes."""
    above: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points"}
    for name, start, end in zip(STATES, marks[:-1], marks[1:], strict=True):
        axes.annotate(name, ((start + end) / 2, 1), (0, 3), ha="center", fontsize=11, color=INK, **above)


def linear_figure(
    coefficients: Mapping[str, NDArray[np.float64]],
    shares: NDArray[np.float64],
    above: str,
    watermark: str = "",
) -> Figure:
    """Draw the coefficients of the linear model: heart sound by phase and frequency, ECG by frequency.

    Parameters
    ----------
    coefficients : mapping of str to numpy.ndarray
        From `systems.ecg_pcg.explain.attribution.linear_coefficients`; of the percentiles of the heart sound
        the mean is plotted.
    shares : numpy.ndarray, shape (4,)
        Share of the cycle of each heart state.
    above, watermark : str
        Which run it is, and a warning to be printed on the figure.
    """
    second = "orange: louder is more abnormal"
    figure = tall_figure("Coefficients of the linear model", second, watermark, 7.6)
    panels_of = {"pcg": lambda axes, values: draw_sound(axes, values, shares), "ecg": draw_ecg}
    shown = [name for name in panels_of if name in coefficients]
    panels = figure.subplots(len(shown), 1, height_ratios=[2.4, 1][: len(shown)], squeeze=False)[:, 0]
    for axes, name in zip(panels, shown, strict=True):
        set_text_sizes(axes)
        panels_of[name](axes, coefficients[name])
    panels[0].set_title(above, fontsize=12, pad=20)
    return figure


def draw_sound(axes: Axes, values: NDArray[np.float64], shares: NDArray[np.float64]) -> None:
    """Draw the coefficients of the heart sound, (percentiles, cells, bands): the mean over percentiles."""
    axis = PhaseAxis(shares, np.array(list(STATE_PARTS.values())))
    mean, bands = values.mean(axis=0), np.array(BAND_EDGES) * RATE / FRAME
    most = np.abs(mean).max()
    mesh = axes.pcolormesh(axis.edges, bands, mean.T, cmap=DIVERGING, vmin=-most, vmax=most)
    for mark in axis.marks[1:-1]:
        axes.axvline(mark, color=INK, linewidth=0.9)
    name_states(axes, axis.marks)
    axes.set(xlabel="phase of the cardiac cycle", ylabel="sound, Hz", yscale="log")
    label_hertz(axes.yaxis, (25, 50, 100, 200, 400, 800))
    bar = axes.figure.colorbar(mesh, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label("log-odds of abnormal per\nstandard deviation of log power", fontsize=11)


def draw_ecg(axes: Axes, values: NDArray[np.float64]) -> None:
    """Draw the coefficients of the ECG bands (13,)."""
    colors = [VERMILLION if value > 0 else BLUE for value in values]
    axes.bar(ECG_EDGES[:-1], values, np.diff(ECG_EDGES), align="edge", color=colors, edgecolor="white")
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="ECG, Hz", ylabel="log-odds per\nstandard deviation", xscale="log")
    axes.set_xlim(ECG_EDGES[0], ECG_EDGES[-1])
    label_hertz(axes.xaxis, (1, 2, 5, 10, 20, 50))
    axes.spines[["top", "right"]].set_visible(False)


def label_hertz(axis: Axis, ticks: Sequence[int]) -> None:
    """Write plain numbers on a logarithmic axis."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


PRINTED = (
    *("protocol", "quantity", "signal", "state", "share", "time_share"),
    *("enrichment", "enrichment_low", "enrichment_high"),
)


@dataclass(frozen=True)
class ExplanationSettings:
    """Settings of the explanation."""

    beat: str = "pacfnet-beat-seed0"
    """Run under protocol beat, or paper."""
    session: str = "pacfnet-session-seed0"
    """Run under protocol session."""
    linear: str = "linear-session-seed0"
    """Run of the linear model; empty: no map of its coefficients."""
    beats: int = 4
    """Beats of a recording at most, evenly spaced."""
    steps: int = 48
    """Steps of integrated gradients."""
    batch_size: int = 128
    """Inputs of one forward pass: beats times steps."""
    bootstrap_draws: int = EvaluationSettings.bootstrap_draws
    """Draws of whole sessions behind the 95 % intervals; 0: no intervals."""
    checkpoint_dir: Path = Path("checkpoints")
    """Folder of checkpoints."""
    cache: Path | None = None
    """Cache that the runs were trained from; default: found by its content."""
    cache_dir: Path = Path("data/cache")
    """Folder in which caches lie."""
    results_dir: Path = Path("results/physionet2016")
    """Folder of the figures and the table."""
    device: str = "auto"
    """auto (CUDA if there is one), cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads of torch; 0: one a core."""


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Explain the runs that the command line names; return the table."""
    settings = read_settings(ExplanationSettings, arguments, __doc__)
    set_threads(settings.threads)
    runs = [load_run(settings.beat, ("beat", "paper"), settings)]
    runs.append(load_run(settings.session, ("session",), settings))
    linear = load_run(settings.linear, ("session", "recording"), settings) if settings.linear else []
    coefficients = linear_coefficients(linear) if linear else {}
    cache = find_cache(settings.cache, settings.cache_dir, runs[0][0]["cache"]["identity"])
    for checkpoints in runs:
        check_checkpoints(checkpoints, cache)
    axis = axis_of(cache)
    columns = [explain(checkpoints, cache, axis, settings) for checkpoints in runs]
    simulated = "simulated data" if cache.simulated else ""
    figures = {"explanation": cycle_figure(columns, watermarked(runs[0][0]["protocol"], simulated))}
    if coefficients:
        figures["linear_map"] = linear_figure(coefficients, axis.shares, heading(linear[0]), simulated)
    table = pd.concat([column.table for column in columns], ignore_index=True)
    for name, figure in figures.items():
        save_figure(figure, settings.results_dir / f"{name}.png")
    write_table(settings.results_dir / "explanation.csv", table, digits=4)
    print(table[list(PRINTED)].to_string(index=False, float_format="{:.3f}".format))
    print(f"\nWritten to {settings.results_dir}: {', '.join(figures)} (.png), explanation.csv.")
    return table


def load_run(name: str, protocols: Sequence[str], settings: ExplanationSettings) -> list[Checkpoint]:
    """Return the checkpoints of a run's folds, which must be of one of these protocols."""
    paths = find_checkpoints(settings.checkpoint_dir / name, settings.checkpoint_dir, "best")
    checkpoints = [load_checkpoint(path) for path in paths]
    protocol = checkpoints[0]["protocol"]
    if protocol not in protocols:
        raise UserError(f"{name} was trained under protocol {protocol}: name a run under {protocols[0]}.")
    return checkpoints


def axis_of(cache: Cache) -> PhaseAxis:
    """Return the phases of the cardiac cycle, each state with its mean share in all recordings."""
    samples = cache.table("samples")
    return phase_axis(beat_onsets(samples, cache.table("events")), samples["recording"])


def explain(
    checkpoints: list[Checkpoint], cache: Cache, axis: PhaseAxis, settings: ExplanationSettings
) -> Column:
    """Explain one run and average what was found over the cycle."""
    beats = explain_folds(
        checkpoints,
        cache,
        beats=settings.beats,
        steps=settings.steps,
        batch_size=settings.batch_size,
        device=settings.device,
    )
    means = over_cycle(beats, axis)
    error = beats.table["completeness_error"].abs()
    table = share_table(means, settings.bootstrap_draws).assign(
        folds=len(checkpoints),
        sessions=means.recordings["session"].nunique(),
        recordings=len(means.recordings),
        beats=len(beats.table),
        completeness_error=error.mean(),
        completeness_error_share=error.sum() / beats.table["change"].abs().sum(),
    )
    table.insert(0, "run", checkpoints[0]["run"])
    table.insert(1, "protocol", checkpoints[0]["protocol"])
    return Column(heading(checkpoints[0]), means, table)


def heading(checkpoint: Mapping[str, Any]) -> str:
    """Return what is written above what a run's figure shows."""
    return f"protocol {checkpoint['protocol']}\n{checkpoint['run']}"


if __name__ == "__main__":
    run_script(main)
