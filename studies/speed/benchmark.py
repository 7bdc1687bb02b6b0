"""Speed on this machine, as one table: preparation, training, inference, against the plain form.

    python -m studies.speed                              # everything; about 20 minutes on two cores
    python -m studies.speed --raw-dir PATH/challenge-2016   # prepares real recordings too
    python -m studies.speed --parts training --presets small
    python -m studies.speed --parts scale --recordings 200 2000   # every step; 3 minutes on one core
    python -m studies.speed --device cuda

Keep the machine idle: a busy neighbour slows two threads far more than one. Writes
results/benchmarks/speed-<device>.csv; its last column describes the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from common.command_line import read_settings
from common.files import write_table
from learning.devices import choose_device, describe_machine, set_threads
from studies.speed import inference, machine, neighbours, preparation, scale, training

PartName = Literal["machine", "preparation", "training", "neighbours", "inference", "scale"]


@dataclass(frozen=True)
class SpeedSettings:
    """Settings of the benchmark."""

    parts: tuple[PartName, ...] = ("machine", "preparation", "training", "neighbours", "inference")
    """What to measure; scale is every step by the number of recordings, on one core."""
    presets: tuple[Literal["small", "paper"], ...] = ("small", "paper")
    """Sizes of PACFNet."""
    raw_dir: Path | None = None
    """Folder of PhysioNet 2016, whose training-a is prepared; default: simulated recordings only."""
    recordings: tuple[int, ...] = preparation.SIZES
    """Recordings of the simulated cohorts, even numbers; of scale multiples of 2,000 above that."""
    compile: bool = True
    """Also train with torch.compile, which compiles for some minutes first."""
    device: str = "auto"
    """auto (CUDA if there is one), cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads of torch; 0: one a core."""
    results_dir: Path = Path("results/benchmarks")
    """Folder of the table."""


def measure(settings: SpeedSettings, device: torch.device) -> list[dict[str, Any]]:
    """Return the rows of the chosen parts."""
    rows: list[dict[str, Any]] = []
    if "machine" in settings.parts:
        rows += machine.measure(device)
    if "preparation" in settings.parts:
        rows += preparation.measure(settings.raw_dir, settings.recordings)
    if "training" in settings.parts:
        rows += training.measure(device, settings.presets, compiles=settings.compile)
    if "neighbours" in settings.parts and device.type == "cpu":
        rows += neighbours.measure()
    if "inference" in settings.parts:
        rows += inference.measure(device, settings.presets)
    if "scale" in settings.parts:
        rows += scale.measure(settings.recordings)
    return rows


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Measure, print the table, write it; parts that were not measured keep their rows."""
    settings = read_settings(SpeedSettings, arguments, __doc__)
    set_threads(settings.threads)
    device = choose_device(settings.device)
    table = pd.DataFrame(measure(settings, device)).assign(machine=describe_machine(device))
    print(table.drop(columns="machine").to_string(index=False, float_format="{:.4g}".format, na_rep=""))
    print(f"\n{describe_machine(device)}")
    path = settings.results_dir / f"speed-{device.type}.csv"
    if path.exists():
        earlier = pd.read_csv(path)
        table = pd.concat([earlier[~earlier["part"].isin(settings.parts)], table], ignore_index=True)
    write_table(path, table, digits=4)
    print(f"Table: {path}")
    return table
