"""From one patient of an index to the views that the cache keeps: the signal and the picture."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.ecg import PLAUSIBLE_RATE, Ecg, flat_leads, prepare_signal, read_ecg
from datasets.ecg_image import draw_ecg, draw_sheet
from datasets.ecg_image_reading import read_ecg_image, to_ink
from datasets.recordings import MINIMUM_DURATION
from datasets.signal_table import read_row
from datasets.sources import DataError, Problem
from systems.ecg_multimodal.settings import ViewSettings

IMAGE_LEAD = "II"


@dataclass(frozen=True)
class PreparedPatient:
    """What one recording gives to the cache.

    Attributes
    ----------
    row : dict
        Metadata, for ``recordings.csv``.
    signal : numpy.ndarray of float32, shape (leads, points), or None
        Millivolts.
    image : numpy.ndarray of uint8, shape (height, width), or None
        Ink, 0 paper to 255 black.
    problems : list of Problem
        Warnings.
    """

    row: dict[str, Any]
    signal: NDArray[np.float32] | None
    image: NDArray[np.uint8] | None
    problems: list[Problem] = field(default_factory=list)


def prepare_patient(
    row: dict[str, Any],
    *,
    root: Path,
    settings: ViewSettings,
    leads: tuple[str, ...],
    signal_rate: float,
    drawn: bool,
) -> PreparedPatient | Problem:
    """Prepare the views of one recording of an index, or say why it is left out.

    Parameters
    ----------
    row : dict
        One row of the index.
    root : pathlib.Path
    settings : ViewSettings
    leads, signal_rate, drawn
        As in `datasets.patients.PatientIndex`.
    """
    name, problems = str(row["recording"]), list[Problem]()
    ecg, image, digest = None, None, ""
    try:
        ecg = read_signal(row, root, leads, signal_rate)
        if drawn and ecg is None:
            raise DataError("It has no signal.")
    except DataError as error:
        if drawn:
            return Problem(name, str(error), "Mend or remove the recording, then prepare again.")
        problems.append(_used_without(name, "signal", error))
    try:
        if drawn and ecg is not None:
            image = draw_ink(ecg, leads, settings, name)
        elif row["image"]:
            path = root / row["image"]
            image = read_ecg_image(path, settings.image_height, settings.image_width)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except DataError as error:
        problems.append(_used_without(name, "image", error))
    signal = None
    if ecg is not None:
        signal = prepare_signal(ecg.samples, ecg.sampling_rate, settings.signal_rate, settings.seconds)
    metadata = row | _signal_metadata(ecg, leads) | {"image_sha256": digest}
    return PreparedPatient(metadata, signal, image, problems)


def draw_ink(ecg: Ecg, leads: tuple[str, ...], settings: ViewSettings, name: str) -> NDArray[np.uint8] | None:
    """Return a picture drawn from a signal as ink, shape (height, width); None where lead II is missing.

    What is random in it depends on the name of the recording only.
    """
    lead = ecg.samples[leads.index(IMAGE_LEAD)]
    if np.isnan(lead).all():
        return None
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    signal = ecg.samples if settings.sheet else lead
    picture = (draw_sheet if settings.sheet else draw_ecg)(
        signal,
        ecg.sampling_rate,
        rotation=rng.uniform(-1, 1) * settings.rotation,
        shadow=rng.uniform() * settings.shadow,
        noise=rng.uniform() * settings.noise,
        text=settings.text,
        rng=rng,
    )
    return to_ink(picture, settings.image_height, settings.image_width)


def read_signal(row: dict[str, Any], root: Path, leads: tuple[str, ...], signal_rate: float) -> Ecg | None:
    """Return the signal of a row of the index as recorded, None where it has none.

    Raises
    ------
    DataError
        If it cannot be read, its rate is not plausible, or it is too short or empty.
    """
    where = str(row["signal"])
    if not where:
        return None
    if where.endswith(".hea"):
        ecg = read_ecg(root / where, root, leads)
    else:
        table, place = where.rsplit("@", 1)
        ecg = Ecg(read_row(root / table, str(row["recording"]), place)[None], signal_rate)
    low, high = PLAUSIBLE_RATE
    if not low <= ecg.sampling_rate <= high:
        raise DataError(f"Its sampling rate is {ecg.sampling_rate:g} Hz; {low:g} to {high:g} are plausible.")
    if ecg.duration < MINIMUM_DURATION:
        raise DataError(f"Its signal lasts {ecg.duration:.2f} s; at least {MINIMUM_DURATION:g} s are needed.")
    if np.isnan(ecg.samples).all():
        raise DataError("Its signal holds no sample.")
    return ecg


def _signal_metadata(ecg: Ecg | None, leads: tuple[str, ...]) -> dict[str, Any]:
    """Return what ``recordings.csv`` says of a signal; the digest is of its content, none of a flat one."""
    if ecg is None:
        return {"ecg_rate": 0.0, "duration": 0.0, "flat_leads": "", "ecg_missing": 0.0, "signal_sha256": ""}
    flat = flat_leads(ecg.samples)
    content = ecg.samples.astype("<f4").tobytes() + f"{ecg.sampling_rate:g}".encode()
    return {
        "ecg_rate": ecg.sampling_rate,
        "duration": round(ecg.duration, 4),
        "flat_leads": " ".join(lead for lead, is_flat in zip(leads, flat, strict=True) if is_flat),
        "ecg_missing": round(float(np.isnan(ecg.samples).mean()), 6),
        "signal_sha256": "" if flat.all() else hashlib.sha256(content).hexdigest(),
    }


def _used_without(name: str, view: str, error: Exception) -> Problem:
    """Return the warning about a view that cannot be read."""
    return Problem(name, f"{error}{without(view)}", "Mend the file.", left_out=False)


def without(view: str) -> str:
    """Return the end of the warning about a view that cannot be read."""
    return f" It is used without {view}."
