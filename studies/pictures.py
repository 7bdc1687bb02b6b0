"""Draw the pictures of the README.

    python -m studies.pictures
    python -m studies.pictures --generator RUN_A   # a run of ecg-to-cmr, as studies.ecg_to_cmr trains it

Writes results/pictures/pacfnet.png, the architecture of PACFNet, from the sizes that the network itself has;
results/pictures/prediction.png, what predict.py draws of a simulated recording; and, where a Chromium is
installed, results/pictures/report.png, the top of that run's report.html. With a generator also
results/pictures/heart.gif, what predict.py generates from the ECG of a simulated patient whom no run has
seen. A minute on one core.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import evaluate
import load_data
import predict
import training
from common.command_line import read_settings
from common.script import run_script
from evaluation.figures import BLUE, GREEN, GREY, INK, ORANGE
from models.pacfnet import PACFNet

_POINTS = 2000
_ROWS = {"ecg": 2.0, "pcg": 0.0}
_MIDDLE = 1.0
_UNSEEN = 77
"""Seed of a cohort that no study learns from."""
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class PictureSettings:
    """Settings of the pictures."""

    out: Path = Path("results/pictures")
    """Folder of the pictures."""
    generator: Path | None = None
    """Run of ecg-to-cmr that generates the heart; default: that picture is left as it is."""


def architecture_figure(network: PACFNet, points: int = _POINTS) -> Figure:
    """Draw the encoders, the fusion levels and the head of PACFNet, with the sizes that they have."""
    with torch.no_grad():
        beat = torch.zeros(1, 1, points)
        levels = network.eval().encoders["ecg"](network.to_layout(beat))
        sizes = [(level.shape[1], level.shape[-1]) for level in levels]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.75, 6.3), ylim=(-0.75, 2.4))
    axes.axis("off")
    for name, row in _ROWS.items():
        _box(axes, 0, row, f"{name.upper()} beat\n1 × {points}", "white")
        for level, (channels, length) in enumerate(sizes, start=1):
            text = f"encoder level {level}\n{channels} × {length}"
            _box(axes, level, row, text, BLUE if name == "ecg" else ORANGE)
            _arrow(axes, (level - 0.6, row), (level - 0.4, row))
            _arrow(axes, (level, row - 0.3 * (row - 1)), (level, _MIDDLE + 0.3 * (row - 1)))
    for level, (channels, length) in enumerate(sizes, start=1):
        _box(axes, level, _MIDDLE, f"SACMF {level}\n{channels} × {length}", GREEN)
        _arrow(axes, (level + 0.4, _MIDDLE), (level + 0.6, _MIDDLE))
    last = len(sizes) + 1
    _box(axes, last, _MIDDLE, "convolution, mean\nover time, dense\n128, 64, 32", "white")
    _arrow(axes, (last + 0.4, _MIDDLE), (last + 0.6, _MIDDLE))
    axes.text(last + 0.65, _MIDDLE, "normal or\nabnormal", ha="left", va="center", fontsize=10, color=INK)
    parameters = sum(weight.numel() for weight in network.parameters())
    note = (
        "SACMF: spatial attention (a map over time for each signal), then channel attention (a vector for "
        "both), then a convolution\nof both signals and the level before. Levels 3 and 4 of the encoders "
        f"also read the pooled beat. {parameters:,} parameters; channels × points."
    )
    axes.text(-0.4, -0.72, note, ha="left", va="bottom", fontsize=9, color=GREY)
    return figure


def _box(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    """Write a text in a rounded box of a colour, paler than that."""
    style = {"boxstyle": "round,pad=0.45", "facecolor": color, "edgecolor": INK, "alpha": 0.25}
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color="none", bbox=style)
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color=INK)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1})


def _run(folder: Path) -> tuple[Path, Path]:
    """Train and evaluate on simulated patients; return the figure of a prediction, and the report."""
    places = ["--cache-dir", str(folder / "cache"), "--checkpoint-dir", str(folder / "checkpoints")]
    raw = folder / "raw"
    load_data.main(["--simulate", "--raw-dir", str(raw), *places[:2]])
    training.main([*places, "--log-dir", str(folder / "runs"), "--model", "linear", "--run-name", "linear"])
    evaluate.main([*places, "--results-dir", str(folder / "results")])
    header = sorted(raw.rglob("*.hea"))[-1]
    predict.main([str(header), "--checkpoint", str(folder / "checkpoints" / "linear"), "--out", str(folder)])
    return folder / f"{header.stem}.png", folder / "results" / "linear" / "report.html"


def _generate(run: Path, folder: Path) -> Path:
    """Generate a cine from the ECG of a new simulated patient; return its GIF."""
    cohort = folder / "pairs"
    patients = ["--simulation.patients", "10", "--simulation.seed", str(_UNSEEN)]
    load_data.main(
        ["ecg-to-cmr", "--simulate", *patients, "--raw-dir", str(cohort), "--cache-dir", str(folder / "new")]
    )
    ecg = sorted(cohort.rglob("*.hea"))[0]
    predict.main([str(ecg), "--checkpoint", str(run), "--out", str(folder / "heart")])
    return next((folder / "heart").glob("*.gif"))


def _photograph(report: Path, picture: Path) -> None:
    """Let a browser draw the top of a page."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        print(f"{picture} is left as it is: no Chromium is installed.")
        return
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1100,1400"]
    subprocess.run(
        [browser, *options, f"--screenshot={picture.resolve()}", report.resolve().as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw all pictures."""
    settings = read_settings(PictureSettings, arguments, __doc__)
    settings.out.mkdir(parents=True, exist_ok=True)
    architecture_figure(PACFNet()).savefig(settings.out / "pacfnet.png", dpi=130)
    with tempfile.TemporaryDirectory() as folder:
        figure, report = _run(Path(folder))
        shutil.copy(figure, settings.out / "prediction.png")
        _photograph(report, settings.out / "report.png")
        if settings.generator is not None:
            shutil.copy(_generate(settings.generator, Path(folder)), settings.out / "heart.gif")
    print(f"Written to {settings.out}.")


if __name__ == "__main__":
    run_script(main)
