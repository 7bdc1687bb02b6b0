"""Settings of load_data.py for the tasks that learn from pairs of ECG and cardiac MRI (CMR)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from config import SourceSettings


@dataclass(frozen=True)
class PairSettings:
    """What is done to ECG and cine before a model sees them. Part of the name of the cache."""

    ecg_rate: float = 250.0
    """Sampling rate of the ECGs, hertz; higher ones are reduced without aliases."""
    seconds: float = 10.0
    """Length of the ECGs, seconds; longer ones are cut, shorter ones go on with their last value."""
    frames: int = 16
    """Frames of a cine over one cycle, the first at the R wave; others are interpolated in time."""
    size: int = 64
    """Height and width of a cine, pixels."""
    pixel_spacing: float = 2.2
    """Millimetres a pixel of the short axis; other spacings are resampled."""
    long_axis_spacing: float = 3.2
    """Millimetres a pixel of the long axis."""
    long_axis: bool = False
    """Keep the long axis too, where there is one."""
    center: Literal["motion", "image"] = "motion"
    """Where a cine is cut out of a larger picture: around what moves, or around its middle."""
    percentiles: tuple[float, float] = (1.0, 99.0)
    """Percentiles of brightness that become black and white."""

    @property
    def points(self) -> int:
        """Samples of an ECG."""
        return round(self.seconds * self.ecg_rate)

    @property
    def bytes_a_patient(self) -> int:
        """Bytes of a patient's arrays in the cache."""
        return 12 * (4 * self.points + 1) + (1 + self.long_axis) * self.frames * self.size**2


@dataclass(frozen=True)
class PairSimulationSettings:
    """Simulated patients of whom ECG and cine are drawn from the same heart."""

    patients: Annotated[int, tyro.conf.arg(aliases=("--patients",))] = 2000
    """Number of patients."""
    seed: int = 0
    """Seed of the cohort; the same seed draws the same patients."""
    ecg_noise: float = 1.0
    """Factor on baseline wander, muscle noise and mains hum of the ECG; 0: none."""


@dataclass(frozen=True)
class PairSourceSettings(SourceSettings):
    """Settings of load_data.py for the ECG-CMR tasks, which share one cache."""

    simulate: bool = False
    """Draw simulated patients straight into a cache. With --raw-dir, they are first written there as files,
    in the layout of one's own pairs."""
    raw_dir: Path | None = None
    """Folder with one's own pairs.csv, or that of ACDC (cines alone) or PTB-XL (ECGs alone). Default:
    data/raw/pairs; for ecg-mae then $PTBXL_DIR and data/raw/ptb-xl, for cmr-mae then data/raw/acdc."""
    source: Literal["auto", "pairs", "acdc", "ptbxl"] = "auto"
    """Layout of raw_dir; auto looks for pairs.csv, ptbxl_database.csv, then training/patient001."""
    check: bool = False
    """Read every file of raw_dir and name all that is wrong with it; write nothing."""
    preparation: tyro.conf.OmitArgPrefixes[PairSettings] = PairSettings()
    simulation: PairSimulationSettings = PairSimulationSettings()
