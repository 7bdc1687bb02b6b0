"""Cines generated from ECGs with a run of ``ecg-to-cmr``, as files that are marked as generated.

ECGs are taken one after the other; what an ECG gives does not depend on the others of the call.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common.errors import UserError
from common.files import write_json
from datasets.ecg import LEADS, Ecg, flat_leads, prepare_signal
from datasets.lead_checks import LARGEST_GAP, check_ecg, without_gaps
from datasets.sources import DataError
from learning.checkpoint import Checkpoint, file_digest
from systems.base import predictor as base
from systems.base.predictor import Metadata, RecordingPath
from systems.ecg_cmr.cine.files import NOTICE, write_gif, write_nifti, write_strip
from systems.ecg_cmr.cine.measures import UNITS
from systems.ecg_cmr.generation.plausible import NOT_FOUND, measure_generated
from systems.ecg_cmr.generation.sampling import Bytes, SamplingConfig, sample_cines
from systems.ecg_cmr.samples import spacing_of
from systems.ecg_cmr.settings import EcgToCmrPredictionSettings
from systems.ecg_cmr.sources.cmr_files import display_affine
from systems.ecg_cmr.sources.pair_modalities import ecg_digest
from systems.ecg_cmr.sources.user_ecg import find_ecgs, open_ecg


@dataclass(frozen=True, kw_only=True)
class GeneratedCines(base.Prediction):
    """Cines generated from one ECG.

    Attributes
    ----------
    cines : numpy.ndarray of uint8, shape (samples, frames, H, W)
    measured : pandas.DataFrame
        What is measured in each, a row a sample; no column for cines of the long axis.
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
        for name in self.measured:
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
        return {
            "notice": NOTICE,
            **self.origin,
            "indicators": indicators,
            "not_found": missing,
            "warnings": [dataclasses.asdict(warning) for warning in self.warnings],
        }

    def write(self, path: Path, metadata: Metadata) -> list[Path]:
        """Write ``<name>_generated``: ``.nii.gz``, ``.gif`` (the first), ``.png`` (a row each), ``.json``."""
        image, gif, strip, table = files = files_of(path)
        pixels = self.cines / 255
        table.unlink(missing_ok=True)  # what an earlier call wrote of itself is not that of these cines
        write_nifti(image, pixels[0], self.pixel_spacing, display_affine(self.pixel_spacing))
        write_gif(gif, pixels[0])
        write_strip(strip, pixels)
        write_json(table, metadata)
        return files


class Predictor(base.Predictor):
    """A trained generator, ready for ECGs; parameters as of `systems.base.predictor.Predictor`.

    Raises
    ------
    UserError
        If there are several folds, or an option has no meaning.
    """

    column = "ejection fraction"
    settings: EcgToCmrPredictionSettings

    def __init__(self, checkpoints: Mapping[Path, Checkpoint], settings: EcgToCmrPredictionSettings) -> None:
        if settings.out is None:
            raise UserError("Cines are written to files: name a folder with --out DIR.")
        if settings.ecg is not None and settings.recordings:
            raise UserError("--ecg has no meaning beside other recordings: leave it away.")
        if len(checkpoints) > 1:
            first = next(iter(checkpoints))
            raise UserError(f"The run has {len(checkpoints)} folds, so name one: --checkpoint {first}.")
        super().__init__(checkpoints, settings)
        (self.checkpoint_digest,) = (file_digest(path) for path in self.paths)

    def about(self) -> Metadata:
        """Return what is particular to the models of this task."""
        trained_on = {name: self.trained_on[name] for name in ("source", "recordings")}
        return {"simulated": self.simulated, "trained_on": trained_on}

    def given(self) -> tuple[Path, ...]:
        """Return the ECGs and folders that the settings name."""
        return super().given() if self.settings.ecg is None else (self.settings.ecg,)

    def find(self) -> list[RecordingPath]:
        """Return the ECGs that paths name."""
        return find_ecgs(self.given())

    def predict(self, path: RecordingPath) -> GeneratedCines:
        """Generate cines from an ECG and measure them."""
        return self._generate(path, self._read(path))

    def _read(self, path: RecordingPath) -> Ecg:
        """Read an ECG as for training: a lead of which much is missing counts as absent."""
        ecg, _ = without_gaps(open_ecg(path.path, self.settings.ecg_rate or 0.0))
        if flat_leads(ecg.samples).all():
            raise DataError(f"More than {LARGEST_GAP:.0%} of each of its leads is missing (NaN).")
        return ecg

    def row(self, path: RecordingPath) -> Metadata:
        """Generate cines and write them, or keep those there are; return metadata, or why there are none."""
        kept = self._kept(path) if self.settings.resume else None
        return super().row(path) | {"kept": False} if kept is None else kept

    def _kept(self, path: RecordingPath) -> Metadata | None:
        """Return the metadata of the files in ``--out`` if this call would make the same ones anew."""
        assert self.settings.out is not None
        files = files_of(self.settings.out / path.name)
        if not all(file.is_file() for file in files):
            return None
        try:
            known = json.loads(files[-1].read_text(encoding="utf-8"))
            origin = self._origin(path, self._read(path))
        except (UserError, OSError, ValueError):
            return None
        if not isinstance(known, dict) or any(known.get(name) != value for name, value in origin.items()):
            return None
        return known | {"path": str(path.path), "files": [str(file) for file in files], "kept": True}

    def _origin(self, path: RecordingPath, ecg: Ecg) -> Metadata:
        """Return all that the cines of an ECG depend on, in plain types."""
        settings = self.settings
        present = ~flat_leads(ecg.samples)
        return {
            "ecg": path.path.name,
            "ecg_sha256": ecg_digest(ecg),
            "leads_used": [lead for lead, there in zip(LEADS, present, strict=True) if there],
            "run": self.checkpoints[0]["run"],
            "checkpoint_sha256": self.checkpoint_digest,
            "trained_on_simulated": self.simulated,
            "steps": settings.steps,
            "samples": settings.samples,
            "guidance": settings.guidance,
            "seed": settings.seed,
            "axis": self.task.settings.axis,
            "pixel_spacing_mm": spacing_of(self.cache["settings"], self.task.settings.axis),
        }

    def _generate(self, path: RecordingPath, ecg: Ecg) -> GeneratedCines:
        """Generate cines from what was read of an ECG."""
        settings, prepared = self.settings, self.cache["settings"]
        warnings = check_ecg(ecg)
        _, seen = self.unseen([ecg_digest(ecg)])
        config = SamplingConfig(
            settings.steps,
            settings.samples,
            settings.guidance,
            min(settings.batch_size, SamplingConfig.batch_size),
            settings.seed,
        )
        signal = prepare_signal(ecg.samples, ecg.sampling_rate, prepared["ecg_rate"], prepared["seconds"])
        present = ~flat_leads(ecg.samples)
        (network,) = self.models
        given = (torch.from_numpy(array)[None].to(self.device) for array in (signal, present))
        cines = sample_cines(network, network.condition(*given), [0], config)[0]
        origin = self._origin(path, ecg)
        spacing = origin["pixel_spacing_mm"]
        measured, reasons = pd.DataFrame(), [""] * len(cines)
        if origin["axis"] == "short":
            measured, reasons = measure_generated((cine / 255 for cine in cines), spacing)
        return GeneratedCines(
            name=path.name,
            warnings=[*warnings, *self.warnings_of_models(seen)],
            watermark=self.watermark(seen),
            left_out=0,
            cines=cines,
            measured=measured,
            reasons=reasons,
            pixel_spacing=spacing,
            origin=origin,
        )

    # Text -------------------------------------------------------------------------------------------------

    def model_text(self, model: Metadata) -> list[str]:
        """Return what was generated, by which model, and what it was trained on."""
        data = model["trained_on"]
        simulated = "simulated " * model["simulated"]
        return [
            NOTICE,
            f"Model: {model['model']} of run {model['run']}.",
            f"Learned from {data['recordings']} {simulated}patients of {data['source']}.",
        ]

    def recording_text(self, row: Metadata) -> list[str]:
        """Return what is measured in the cines of one ECG, and in how many nothing is."""
        kept = " (kept)" if row["kept"] else ""
        if not row["indicators"]:
            return [f"{row['samples']} cines of the long axis from {row['ecg']}{kept}; none is measured."]
        lines = [f"Measured in {row['samples']} cines generated from {row['ecg']}{kept}:"]
        lines += [
            f"  {name.replace('_', ' '):20} {_measured_text(part)}"
            for name, part in row["indicators"].items()
        ]
        for reason, count in Counter(part["reason"] for part in row["not_found"]).items():
            lines.append(f"In {count} of these cines nothing is measured: {reason}.")
        return lines

    def short_text(self, row: Metadata) -> str:
        """Return the ejection fraction, for the table of several ECGs."""
        known = row["indicators"].get("ejection_fraction")
        return NOT_FOUND if known is None else _measured_text(known)


def files_of(base_name: Path) -> list[Path]:
    """Return the files of an ECG: NIfTI and GIF of the first cine, a picture of all, metadata (last)."""
    endings = (".nii.gz", ".gif", ".png", ".json")
    return [base_name.with_name(f"{base_name.name}_generated{ending}") for ending in endings]


def _measured_text(part: Metadata) -> str:
    """Return mean and range of an indicator over the cines of an ECG."""
    low, high = part["low"], part["high"]
    return NOT_FOUND if low is None else f"{part['mean']:.1f} {part['unit']} ({low:.1f} to {high:.1f})"
