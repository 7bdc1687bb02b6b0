"""What is made of the runs of each task: who judges them, who predicts, draws and exports with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from learning.export import Exportable
from settings.prediction import PredictionSettings
from tasks import (
    cine_autoencoder_judging,
    ecg_cmr_judging,
    ecg_multimodal_judging,
    ecg_multimodal_words,
    ecg_pcg_export,
    ecg_pcg_judging,
    ecg_phenotypes_words,
    ecg_to_cmr_judging,
    ecg_to_cmr_prediction,
)
from tasks.binary import Task
from tasks.ecg_multimodal_prediction import EcgMultimodalPredictor
from tasks.ecg_pcg_prediction import EcgPcgPredictor
from tasks.ecg_phenotypes_prediction import EcgPhenotypesPredictor
from tasks.judging import Checkpoint, Opened
from tasks.prediction import Predictor, Words
from tasks.registry import TASKS, find_task

__all__ = ["DRAW", "ECG_ALONE", "EXPORT", "JUDGE", "PREDICT", "TASKS", "WORDS", "Task", "find_task"]

JUDGE: dict[str, Callable[[Opened], tuple[dict[str, Any], list[Path]]]] = {
    "ecg-pcg": ecg_pcg_judging.judge,
    "ecg-multimodal": ecg_multimodal_judging.judge,
    **dict.fromkeys(ecg_cmr_judging.STAGES, ecg_cmr_judging.judge),
    "cine-autoencoder": cine_autoencoder_judging.judge,
    "ecg-to-cmr": ecg_to_cmr_judging.judge,
}
"""For each task what judges an opened run, writes its results, and returns metrics and files written."""
PREDICT: dict[str, Callable[[Mapping[Path, Checkpoint], PredictionSettings], Predictor]] = {
    "ecg-pcg": EcgPcgPredictor,
    "ecg-multimodal": EcgMultimodalPredictor,
    "ecg-phenotypes": EcgPhenotypesPredictor,
}
"""For each task whose models judge single recordings: what makes a predictor of one run's checkpoints."""
WORDS: dict[str, Words] = {
    "ecg-multimodal": ecg_multimodal_words.WORDS,
    "ecg-phenotypes": ecg_phenotypes_words.WORDS,
}
"""For each task whose models say other things than a probability of abnormal: how they are told."""
ECG_ALONE = ("ecg-phenotypes",)
"""Tasks whose models judge what --ecg names, without any other recording."""
DRAW: dict[str, Callable[[PredictionSettings], dict[str, Any]]] = {"ecg-to-cmr": ecg_to_cmr_prediction.draw}
"""For each task whose models draw something from a recording: what draws and writes it, and returns facts."""
EXPORT: dict[str, Callable[[Checkpoint, str], Exportable]] = {"ecg-pcg": ecg_pcg_export.exportable}
"""For each task whose networks can be exported: what makes one ready, of a checkpoint and its digest."""
