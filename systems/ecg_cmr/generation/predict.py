"""SamplingConfig cines from one's own ECG with a trained run of ``ecg-to-cmr``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from common.command_line import from_plain
from common.errors import UserError
from common.files import write_json
from datasets.ecg import LEADS, flat_leads, prepare_signal
from learning.checkpoint import Checkpoint, load_checkpoint
from learning.devices import choose_device
from models.ecg_cmr.cine_generator import CineGenerator
from systems.base.prediction_settings import PredictionSettings
from systems.ecg_cmr.cine.files import NOTICE, write_gif, write_nifti, write_strip
from systems.ecg_cmr.cine.measures import MEASURED, UNITS, measure_cines
from systems.ecg_cmr.generation.sampling import Bytes, SamplingConfig, sample_cines
from systems.ecg_cmr.generation.task import EcgToCmr
from systems.ecg_cmr.settings import EcgToCmrSettings
from systems.ecg_cmr.sources.cmr_files import display_affine
from systems.ecg_cmr.sources.user_ecg import open_ecg
from systems.ecg_cmr.stage import find_parent


@dataclass(frozen=True)
class DrawnCines:
    """Cines drawn from one ECG.

    Attributes
    ----------
    name : str
        Of the ECG.
    cines : numpy.ndarray of uint8, shape (samples, frames, H, W)
    measured : pandas.DataFrame
        What is measured in each, a row a sample.
    pixel_spacing : float
        Millimetres.
    metadata : dict
        Where they come from, in plain types.
    """

    name: str
    cines: Bytes
    measured: pd.DataFrame
    pixel_spacing: float
    metadata: dict[str, Any]

    def indicators(self) -> dict[str, dict[str, float | int | str | None]]:
        """Return mean and spread over the samples of each indicator; None where nothing was measured."""
        found: dict[str, dict[str, float | int | str | None]] = {}
        for name in MEASURED:
            known = self.measured[name].dropna()
            numbers = {
                "mean": known.mean(),
                "deviation": known.std(),
                "low": known.min(),
                "high": known.max(),
            }
            plain = {key: float(value) if np.isfinite(value) else None for key, value in numbers.items()}
            found[name] = {"unit": UNITS[name], "measured_in": len(known), **plain}
        return found


def draw(settings: PredictionSettings) -> dict[str, Any]:
    """Draw cines as the settings of predict.py say; return what was written to the ``.json``."""
    asked = settings.drawing
    if settings.out is None:
        raise UserError("Cines are written to files: name a folder with --out DIR.")
    if min(asked.steps, asked.samples) < 1 or asked.guidance < 0:
        raise UserError(
            f"--steps {asked.steps} and --samples {asked.samples} must be 1 or more, "
            f"--guidance {asked.guidance:g} must not be negative."
        )
    assert settings.checkpoint is not None and settings.ecg is not None
    how = SamplingConfig(asked.steps, asked.samples, asked.guidance, min(settings.batch_size, 64), asked.seed)
    return draw_from_ecg(
        settings.checkpoint,
        settings.ecg,
        settings.out,
        ecg_rate=settings.ecg_rate or 0.0,
        how=how,
        device=settings.device,
    )


def draw_from_ecg(
    checkpoint: Path,
    ecg: Path,
    out: Path,
    *,
    ecg_rate: float = 0.0,
    how: SamplingConfig | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Draw cines from an ECG file and write them, what is measured in them, and how far they differ.

    Parameters
    ----------
    checkpoint : pathlib.Path
        Of a run of ecg-to-cmr: a file, or the folder of a run with one fold.
    ecg : pathlib.Path
        WFDB record (with or without ``.hea``), or ``.npy`` (leads, T) in millivolts.
    out : pathlib.Path
        Folder; ``<name>_generated`` with ``.nii.gz``, ``.gif`` (the first sample), ``.png`` (a row of frames
        a sample) and ``.json`` are written to it.
    ecg_rate : float
        Hertz, of an ``.npy`` that does not state it.
    how : SamplingConfig, optional
        Steps, samples, guidance, seed; default: those of `SamplingConfig`.
    device : str

    Returns
    -------
    dict
        What the ``.json`` holds.

    Raises
    ------
    UserError
        If the checkpoint is of another task, or the ECG cannot be read.
    """
    drawn = draw_user(checkpoint, ecg, ecg_rate=ecg_rate, how=how or SamplingConfig(), device=device)
    base = out / f"{drawn.name}_generated"
    files = {ending: base.with_name(base.name + ending) for ending in (".nii.gz", ".gif", ".png", ".json")}
    pixels = drawn.cines / 255
    write_nifti(files[".nii.gz"], pixels[0], drawn.pixel_spacing, display_affine(drawn.pixel_spacing))
    write_gif(files[".gif"], pixels[0])
    write_strip(files[".png"], pixels)
    content = {"notice": NOTICE, **drawn.metadata, "indicators": drawn.indicators()}
    content["files"] = [path.name for path in files.values()]
    write_json(files[".json"], content)
    return content


def draw_user(
    checkpoint: Path, ecg: Path, *, ecg_rate: float = 0.0, how: SamplingConfig, device: str = "cpu"
) -> DrawnCines:
    """Draw cines from an ECG file without writing them; parameters as of `draw_from_ecg`."""
    place = find_parent(checkpoint)
    content = load_checkpoint(place)
    if content["task"] != EcgToCmr.name:
        raise UserError(f"{place} is a run of {content['task']}; cines are drawn by runs of {EcgToCmr.name}.")
    network = open_network(content).to(choose_device(device)).eval()
    prepared = content["cache"]["settings"]
    signal, present = read_user(ecg, ecg_rate, prepared)
    where = choose_device(device)
    condition = network.condition(
        torch.from_numpy(signal)[None].to(where), torch.from_numpy(present)[None].to(where)
    )
    cines = sample_cines(network, condition, [0], how)[0]
    spacing = float(prepared["pixel_spacing"])
    metadata = {
        "ecg": ecg.name,
        "leads_used": [lead for lead, there in zip(LEADS, present, strict=True) if there],
        "run": content["run"],
        "trained_on_simulated": bool(content["cache"]["simulated"]),
        "steps": how.steps,
        "samples": how.samples,
        "guidance": how.guidance,
        "seed": how.seed,
        "pixel_spacing_mm": spacing,
    }
    measured = measure_cines((cine / 255 for cine in cines), spacing)
    return DrawnCines(ecg.name.removesuffix(".hea").removesuffix(".npy"), cines, measured, spacing, metadata)


def open_network(content: Checkpoint) -> CineGenerator:
    """Return the network of a checkpoint with its weights."""
    settings = from_plain(EcgToCmrSettings, content["settings"])
    network = EcgToCmr(settings).build(content["inputs"])
    network.load_state_dict(content["model"])
    assert isinstance(network, CineGenerator)
    return network


def read_user(
    ecg: Path, rate: float, prepared: dict[str, Any]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return an ECG as the network was trained on it, and which leads there are.

    Raises
    ------
    UserError
        If there is no such file, or it cannot be read.
    """
    found = open_ecg(ecg, rate)
    signal = prepare_signal(found.samples, found.sampling_rate, prepared["ecg_rate"], prepared["seconds"])
    return signal, ~flat_leads(found.samples)
