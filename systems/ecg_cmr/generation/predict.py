"""Cines generated from one ECG with a run of ``ecg-to-cmr``, as files that are marked as generated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common.errors import UserError
from common.files import write_json
from datasets.ecg import LEADS, flat_leads, prepare_signal
from learning.checkpoint import Checkpoint
from systems.base import predictor as base
from systems.base.predictor import Metadata, RecordingPath
from systems.ecg_cmr.cine.files import NOTICE, write_gif, write_nifti, write_strip
from systems.ecg_cmr.cine.measures import MEASURED, UNITS
from systems.ecg_cmr.generation.plausible import NOT_FOUND, measure_generated
from systems.ecg_cmr.generation.sampling import Bytes, SamplingConfig, sample_cines
from systems.ecg_cmr.settings import EcgToCmrPredictionSettings
from systems.ecg_cmr.sources.cmr_files import display_affine
from systems.ecg_cmr.sources.user_ecg import name_of, open_ecg


@dataclass(frozen=True, kw_only=True)
class GeneratedCines(base.Prediction):
    """Cines generated from one ECG.

    Attributes
    ----------
    cines : numpy.ndarray of uint8, shape (samples, frames, H, W)
    measured : pandas.DataFrame
        What is measured in each, a row a sample.
    reasons : list of str
        Why nothing is found in each; empty where something is.
    pixel_spacing : float
        Millimetres.
    origin : dict
        Where they come from, in plain types.
    """

    cines: Bytes
    measured: pd.DataFrame
    reasons: list[str]
    pixel_spacing: float
    origin: Metadata

    def metadata(self) -> Metadata:
        """Return where they come from, and mean and spread over the samples of each indicator."""
        indicators = {}
        for name in MEASURED:
            known = self.measured[name].dropna()
            numbers = {
                "mean": known.mean(),
                "deviation": known.std(),
                "low": known.min(),
                "high": known.max(),
            }
            plain = {key: float(value) if np.isfinite(value) else None for key, value in numbers.items()}
            indicators[name] = {"unit": UNITS[name], "measured_in": len(known), **plain}
        missing = [
            {"sample": number, "reason": reason} for number, reason in enumerate(self.reasons) if reason
        ]
        return {"notice": NOTICE, **self.origin, "indicators": indicators, "not_found": missing}

    def write(self, path: Path, metadata: Metadata) -> list[Path]:
        """Write ``<name>_generated``: ``.nii.gz``, ``.gif`` (the first), ``.png`` (a row each), ``.json``."""
        endings = (".nii.gz", ".gif", ".png", ".json")
        image, gif, strip, table = files = [
            path.with_name(f"{path.name}_generated{ending}") for ending in endings
        ]
        pixels = self.cines / 255
        write_nifti(image, pixels[0], self.pixel_spacing, display_affine(self.pixel_spacing))
        write_gif(gif, pixels[0])
        write_strip(strip, pixels)
        write_json(table, metadata | {"files": [file.name for file in files]})
        return files


class Predictor(base.Predictor):
    """A trained generator, ready for one ECG; parameters as of `systems.base.predictor.Predictor`.

    Raises
    ------
    UserError
        If there are several folds, or an option has no meaning.
    """

    settings: EcgToCmrPredictionSettings

    def __init__(self, checkpoints: Mapping[Path, Checkpoint], settings: EcgToCmrPredictionSettings) -> None:
        if settings.ecg is None or settings.recordings:
            raise UserError("Cines are generated from one ECG: name it with --ecg, and no other recording.")
        if settings.out is None:
            raise UserError("Cines are written to files: name a folder with --out DIR.")
        if min(settings.steps, settings.samples) < 1 or settings.guidance < 0:
            raise UserError(
                f"--steps {settings.steps} and --samples {settings.samples} must be 1 or more, "
                f"--guidance {settings.guidance:g} must not be negative."
            )
        if len(checkpoints) > 1:
            first = next(iter(checkpoints))
            raise UserError(f"The run has {len(checkpoints)} folds, so name one: --checkpoint {first}.")
        super().__init__(checkpoints, settings)

    def find(self) -> list[RecordingPath]:
        """Return the one ECG."""
        ecg = self.settings.ecg
        assert ecg is not None
        return [RecordingPath(name_of(ecg.name), ecg)]

    def predict(self, path: RecordingPath) -> GeneratedCines:
        """Generate cines from an ECG and measure them."""
        settings, prepared = self.settings, self.cache["settings"]
        config = SamplingConfig(
            settings.steps,
            settings.samples,
            settings.guidance,
            min(settings.batch_size, SamplingConfig.batch_size),
            settings.seed,
        )
        ecg, spacing = open_ecg(path.path, settings.ecg_rate or 0.0), float(prepared["pixel_spacing"])
        signal = prepare_signal(ecg.samples, ecg.sampling_rate, prepared["ecg_rate"], prepared["seconds"])
        present = ~flat_leads(ecg.samples)
        (network,) = self.models
        given = (torch.from_numpy(array)[None].to(self.device) for array in (signal, present))
        cines = sample_cines(network, network.condition(*given), [0], config)[0]
        origin = {
            "ecg": path.path.name,
            "leads_used": [lead for lead, there in zip(LEADS, present, strict=True) if there],
            "run": self.checkpoints[0]["run"],
            "trained_on_simulated": self.simulated,
            "steps": config.steps,
            "samples": config.samples,
            "guidance": config.guidance,
            "seed": config.seed,
            "pixel_spacing_mm": spacing,
        }
        measured, reasons = measure_generated((cine / 255 for cine in cines), spacing)
        return GeneratedCines(
            name=path.name,
            warnings=[],
            watermark="",
            left_out=0,
            cines=cines,
            measured=measured,
            reasons=reasons,
            pixel_spacing=spacing,
            origin=origin,
        )

    def row(self, path: RecordingPath) -> Metadata:
        """Generate cines, write them, and return their metadata, which are those of the file."""
        prediction = self.predict(path)
        metadata = prediction.metadata()
        assert self.settings.out is not None
        files = prediction.write(self.settings.out / path.name, metadata)
        return metadata | {"files": [file.name for file in files]}

    def document(self, rows: Sequence[Metadata]) -> Metadata:
        """Return the metadata of the one ECG."""
        return rows[0]

    def text(self, rows: Sequence[Metadata]) -> list[str]:
        """Return what is measured in the cines, and which files there are."""
        (row,) = rows
        lines = [row["notice"]]
        if row["trained_on_simulated"]:
            lines.append("The run was trained on simulated patients: its cines do not hold for a real ECG.")
        lines.append(f"Measured in {row['samples']} cines generated from {row['ecg']}:")
        for name, part in row["indicators"].items():
            low, high = part["low"], part["high"]
            value = (
                NOT_FOUND if low is None else f"{part['mean']:.1f} {part['unit']} ({low:.1f} to {high:.1f})"
            )
            lines.append(f"  {name.replace('_', ' '):20} {value}")
        for reason, count in Counter(part["reason"] for part in row["not_found"]).items():
            lines.append(f"In {count} of these cines nothing is measured: {reason}.")
        return [*lines, f"Written to {self.settings.out}: {', '.join(row['files'])}."]
