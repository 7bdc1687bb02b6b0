"""What is made of the runs of each task: who judges them, who predicts, draws and exports with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from systems.base.evaluation_run import Checkpoint, EvaluationRun
from systems.base.exporting import Exportable
from systems.base.prediction_settings import PredictionSettings
from systems.base.predictor import Predictor, Words
from systems.base.task import Task
from systems.ecg_cmr import evaluate as ecg_cmr_judging
from systems.ecg_cmr.generation import autoencoder_evaluate as cine_autoencoder_judging
from systems.ecg_cmr.generation import evaluate as ecg_to_cmr_judging
from systems.ecg_cmr.generation import predict as ecg_to_cmr_prediction
from systems.ecg_cmr.phenotypes import text as ecg_phenotypes_words
from systems.ecg_cmr.phenotypes.predict import EcgPhenotypesPredictor
from systems.ecg_multimodal import evaluate as ecg_multimodal_judging
from systems.ecg_multimodal import text as ecg_multimodal_words
from systems.ecg_multimodal.predict import EcgMultimodalPredictor
from systems.ecg_pcg import evaluate as ecg_pcg_judging
from systems.ecg_pcg import export as ecg_pcg_export
from systems.ecg_pcg.predict import EcgPcgPredictor
from systems.registry import TASKS, find_task

__all__ = ["DRAW", "ECG_ALONE", "EXPORT", "JUDGE", "PREDICT", "TASKS", "WORDS", "Task", "find_task"]

JUDGE: dict[str, Callable[[EvaluationRun], tuple[dict[str, Any], list[Path]]]] = {
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
"""For each task whose models generate something: what draws and writes it, and returns metadata."""
EXPORT: dict[str, Callable[[Checkpoint, str], Exportable]] = {"ecg-pcg": ecg_pcg_export.exportable}
"""For each task whose networks can be exported: what makes one ready, of a checkpoint and its digest."""
