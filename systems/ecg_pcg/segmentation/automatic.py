"""Heart states of one recording, found automatically, and how far to trust them.

Preparation and prediction share this, so that a model is used on heart states found as those it learned from.
"""

from __future__ import annotations

from collections.abc import Mapping

from datasets.recordings import Recording
from datasets.signal_quality import SignalWarning, agreement
from datasets.sources import DataError
from systems.ecg_pcg.segmentation.segment import Segmentation, segment

_UNCERTAIN = 0.47
"""Quality of a segmentation without an ECG below which there is a warning: of training-a to e, each with
parameters of the other databases, one recording in ten. Of these one in five has an F1 of its onsets below
0.9, of the others one in twenty-two."""
_NO_BEAT = 0.45
"""Agreement of beats below which none repeats. It is more than for R-peaks, as the segmentation looks for a
rhythm and finds some in noise: of 90 noises of 25 s (white, 1/f, 1/f2) 20 have .3, and one has .45. Of 945
recordings of six databases, with parameters of the others, 8 have less than .45 (5 of 368 of training-b)."""
_APART = 0.5
"""Agreement of R-peaks and S1 below which there is a warning: on training-a one recording in
eighteen, mostly as R-peaks are hard to find in its ECG."""


def automatic_states(recording: Recording) -> Segmentation:
    """Return heart states found in the heart sound, with the help of the ECG where there is one.

    Raises
    ------
    DataError
        If there is no heart sound, or one that cannot be segmented.
    """
    pcg, ecg = recording.pcg, recording.ecg
    if pcg is None:
        raise DataError("There is no heart sound to segment.")
    if ecg is None:
        return segment(pcg.samples, pcg.sampling_rate)
    return segment(pcg.samples, pcg.sampling_rate, ecg.samples, ecg.sampling_rate)


def certainty(recording: Recording, found: Segmentation) -> dict[str, float]:
    """Return how certain the heart states found in a recording are, and by what they were found.

    Returns
    -------
    dict of str to float
        ``quality``, ``heart_rate`` and ``r_peak_agreement`` of the segmentation, and ``agreement``: how alike
        the beats of the heart sound are that begin at its S1 (`datasets.signal_quality.agreement`).
    """
    assert recording.pcg is not None
    first_sounds = found.states.time[found.states.state == "S1"]
    return {
        "quality": found.quality,
        "heart_rate": found.heart_rate,
        "r_peak_agreement": found.r_peak_agreement,
        "agreement": agreement(recording.pcg, "pcg", first_sounds),
    }


def repeats(certain: Mapping[str, float]) -> bool:
    """Whether a heart beat repeats in a heart sound, by the `certainty` of its heart states."""
    return certain["agreement"] >= _NO_BEAT


def segmentation_warnings(recording: Recording, found: Segmentation) -> list[SignalWarning]:
    """Return what is doubtful about the heart states found in a recording."""
    warnings = []
    if found.r_peak_agreement < _APART:
        text = (
            f"R-peaks and S1 do not agree (agreement {found.r_peak_agreement:.2f} of 1): the ECG "
            "is noisy, has a wrong rate, or did not start with the heart sound."
        )
        warnings.append(SignalWarning("apart", "", text))
    if recording.ecg is None and found.quality < _UNCERTAIN:
        text = (
            f"It is uncertain where S1 and S2 are (certainty {found.quality:.2f}, usually 0.53): look at "
            "the figure of predict.py (--out), or record an ECG with the heart sound."
        )
        warnings.append(SignalWarning("segmentation", "pcg", text))
    return warnings
