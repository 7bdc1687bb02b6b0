"""Draw where trained networks look over the cardiac cycle, beats kept apart beside sessions kept apart.

    python -m studies.physionet2016_explanation --beat pacfnet-beat-seed0 --session pacfnet-session-seed0
    python -m studies.physionet2016_explanation --beats 16 --steps 128 --device cuda

Explains the network of each fold on beats of its own test part, and writes explanation.png, explanation.csv
and, from the linear model, linear_map.png to results/physionet2016. Needs the runs in checkpoints/ that
``python -m studies.physionet2016`` makes, and their cache. About 4 minutes on one core for small networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tyro

from common.errors import UserError
from common.files import write_table
from common.script import run_script
from datasets.cache import Cache, find_cache
from evaluation.figures import save_figure
from evaluation.tables import watermarked
from learning.checkpoint import Checkpoint, load_checkpoint
from learning.devices import set_threads
from learning.runs import find_checkpoints
from studies.explanation_figures import Column, cycle_figure, linear_figure
from systems.ecg_pcg.explain.attribution import check_checkpoints, explain_folds, linear_coefficients
from systems.ecg_pcg.explain.cycle import (
    PhaseAxis,
    beat_onsets,
    over_cycle,
    phase_axis,
    share_table,
)

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
    bootstrap_draws: int = 2000
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
    settings = tyro.cli(ExplanationSettings, args=arguments, description=__doc__)
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
