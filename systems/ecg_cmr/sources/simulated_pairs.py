"""Simulated patients of whom an ECG and a cine CMR are drawn from the same heart, straight into the cache.

`systems.ecg_cmr.sources.simulated_files` writes the same patients as files.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from datasets.cache_filling import name_content
from datasets.ecg import LEADS
from datasets.sources import DataError
from simulation.cine import render_cine
from simulation.heart import Heart
from simulation.heart_population import IMPLIED_CEILINGS, draw_heart
from simulation.patient import stream
from simulation.physiology import CEILINGS, CONDITIONS
from simulation.vectorcardiogram import render_ecg
from systems.ecg_cmr.settings import PairSettings, PairSimulationSettings
from systems.ecg_cmr.sources.cache import check_pair_settings, fill_pairs_cache
from systems.ecg_cmr.sources.cmr_frames import to_bytes
from systems.ecg_cmr.sources.pair_modalities import PreparedPair
from systems.ecg_cmr.sources.pairs import COVARIATES, DISEASE, PairIndex, pair_row, target_tables

PAIRS_VERSION = 1
"""Raised when the same settings would give other patients."""
PAIR = 11
"""First word of the key of a pair's random streams (that of a heart is 10)."""
ECG, SHORT_AXIS, LONG_AXIS = range(3)


def patient_name(number: int) -> str:
    """Return the name of a simulated patient."""
    return f"v{number:05d}"


def disease_columns() -> tuple[str, ...]:
    """Return a column for each disease, the three infarctions as one."""
    named = ["infarction" if name.endswith("infarction") else name for name in CONDITIONS[1:]]
    return tuple(DISEASE + name.replace(" ", "_") for name in dict.fromkeys(named))


def targets_of(heart: Heart) -> dict[str, float]:
    """Return indicators, diseases and covariates of a heart by column."""
    own = DISEASE + heart.disease.replace(" ", "_")
    drivers = heart.drivers
    body = {"age": drivers.age, "sex": float(drivers.sex == "female")}
    body |= {"height": drivers.height, "weight": drivers.weight}
    return heart.indicators() | {name: float(name == own) for name in disease_columns()} | body


def truth_of(heart: Heart) -> dict[str, Any]:
    """Return what else is true of a heart: what ECG and image show, together or alone."""
    drivers = heart.drivers
    return {
        "pattern": drivers.pattern,
        "severity": round(drivers.severity, 4),
        "rhythm": drivers.rhythm,
        "heart_rate": round(drivers.heart_rate, 3),
        "right_block": int(drivers.right_block),
        "flat_t": int(drivers.flat_t),
        "scar": int(heart.scar is not None),
    }


def ceilings() -> dict[str, float]:
    """Return the share of the variance of each indicator that an ECG can know."""
    return CEILINGS | IMPLIED_CEILINGS


# Into the cache -------------------------------------------------------------------------------------


def build_simulated_pairs(
    settings: PairSettings,
    simulation: PairSimulationSettings,
    cache_dir: Path,
    *,
    jobs: int = -1,
    progress: bool = True,
) -> Path:
    """Draw a cohort straight into a cache and return its folder; no file is written on the way.

    Nothing is done when a cache of the same settings is there already.

    Raises
    ------
    DataError
        If the settings do not fit.
    """
    check_pair_settings(settings)
    if simulation.patients < 1 or simulation.ecg_noise < 0:
        raise DataError(
            f"{simulation.patients} patients with an ECG noise of {simulation.ecg_noise} cannot be: "
            "at least one patient and a noise of 0 or more are needed."
        )
    index = simulated_index(simulation)
    prepare = functools.partial(draw_pair, settings=settings, simulation=simulation)
    identified = name_content(index, [], settings)
    return fill_pairs_cache(index, settings, cache_dir, prepare, identified, jobs=jobs, progress=progress)


def simulated_index(simulation: PairSimulationSettings) -> PairIndex:
    """Return the index of a cohort; the hearts of its targets are drawn here, signals and images are not."""
    hearts = [draw_heart(simulation.seed, number) for number in range(simulation.patients)]
    rows = [pair_row(patient_name(number), diagnosis=heart.condition) for number, heart in enumerate(hearts)]
    values = {patient_name(number): targets_of(heart) for number, heart in enumerate(hearts)}
    indicators, diseases = tuple(hearts[0].indicators()), disease_columns()
    recordings, targets = target_tables(rows, values, (indicators, diseases, COVARIATES))
    identity = {"version": PAIRS_VERSION, "ceilings": ceilings(), **dataclasses.asdict(simulation)}
    return PairIndex(
        "simulated-pairs",
        Path(),
        recordings,
        [],
        {"simulated-pairs": "person"},
        [],
        {"simulation": json.dumps(identity, sort_keys=True)},
        targets,
        LEADS,
        simulated=True,
        indicators=indicators,
        diseases=diseases,
        ceilings=ceilings(),
    )


def draw_pair(
    row: dict[str, Any], *, settings: PairSettings, simulation: PairSimulationSettings
) -> PreparedPair:
    """Return what the cache keeps of one simulated patient."""
    number = int(row["recording"][1:])
    heart = draw_heart(simulation.seed, number)
    ecg = render_ecg(
        heart,
        settings.seconds,
        settings.ecg_rate,
        stream(simulation.seed, PAIR, number, ECG),
        noise=simulation.ecg_noise,
    )
    views = [(SHORT_AXIS, settings.pixel_spacing)]
    views += [(LONG_AXIS, settings.long_axis_spacing)] if settings.long_axis else []
    cines = [
        to_bytes(
            render_cine(
                heart,
                stream(simulation.seed, PAIR, number, view),
                settings.frames,
                settings.size,
                spacing,
                long_axis=view == LONG_AXIS,
            ),
            settings.percentiles,
        )
        for view, spacing in views
    ]
    metadata = truth_of(heart) | {
        "ecg_rate": settings.ecg_rate,
        "duration": settings.seconds,
        "end": settings.seconds,
        "absent_leads": "",
        "signal_sha256": hashlib.sha256(ecg.tobytes()).hexdigest(),
        "image_sha256": hashlib.sha256(cines[0].tobytes()).hexdigest(),
    }
    present = np.ones(len(LEADS), dtype=bool)
    return PreparedPair(row | metadata, ecg, present, cines[0], cines[1] if settings.long_axis else None)
