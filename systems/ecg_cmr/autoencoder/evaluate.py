"""Evaluation of a run of ``cine-autoencoder``: the error of decoded frames and of what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from datasets.splits import fold_from_parts
from evaluation.tables import Caption
from models.ecg_cmr.cine_autoencoder import CineAutoencoder
from systems.base.evaluation_run import EvaluationRun, one_model, unseen_rows
from systems.base.task import CARRIED
from systems.ecg_cmr.cine.measures import MEASURED, measure_cines
from systems.ecg_cmr.evaluate import write_stage
from systems.ecg_cmr.generation.evaluate import cines_of, filled, stated_indicators
from systems.ecg_cmr.generation.image_quality import image_scores
from systems.ecg_cmr.phenotypes.evaluate import indicator_table

_AT_ONCE = 64
"""Cines that are encoded together."""
_CAPTIONS = {
    "images": Caption("How like a decoded frame is to the true one: SSIM is 1 at best, PSNR is in decibels."),
    "indicators": Caption(
        "What is measured in the true cines, and in those that passed the autoencoder, beside the truth. "
        "The mean absolute error is in the unit of the indicator (mL, %, g, mm)."
    ),
}


def evaluate(run: EvaluationRun) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a run, write its results, and return its metrics and the files written."""
    one_model(run, "Decoded cines are no probabilities, of which a mean could be taken")
    frames, through, parts = [], [], []
    for content in run.checkpoints:
        samples, network = run.samples, run.model(content)
        assert isinstance(network, CineAutoencoder)
        fold = fold_from_parts(content["fold"], content["parts"].numpy(), content["protocol"])
        rows = (unseen_rows(run) if run.external else fold.test)[: run.settings.max_patients]
        frames.append(cines_of(samples, rows))
        for part in torch.from_numpy(frames[-1]).to(samples.cmr.device).split(_AT_ONCE):
            through.append(network.decode(network.encode(part)).cpu().numpy())
        table = samples.table.iloc[rows][list(CARRIED)].reset_index(drop=True).assign(fold=fold.number)
        parts.append(pd.concat([table, stated_indicators(samples, rows).add_prefix("true_")], axis=1))
    true, decoded = np.concatenate(frames), np.concatenate(through)
    table = pd.concat(parts, ignore_index=True)
    images = {"images": pd.DataFrame([image_scores(true, decoded)])}
    if run.checkpoints[0]["settings"].get("axis", "short") == "long":  # nothing is measured in a long axis
        return write_stage(run, table, images, captions=_CAPTIONS)
    spacing = float(run.cache.manifest["settings"]["pixel_spacing"])
    own, found = (measure_cines(cines, spacing) for cines in (true, decoded))
    truth = table[[f"true_{name}" for name in MEASURED]].set_axis(list(MEASURED), axis=1).combine_first(own)
    patient, draws = table["session"].tolist(), run.settings.bootstrap_draws
    indicators = [
        indicator_table(truth[list(MEASURED)], filled(values), patient, draws=draws).assign(source=name)
        for name, values in (("true cine", own), ("true cine through the autoencoder", found))
    ]
    tables = images | {"indicators": pd.concat(indicators, ignore_index=True)}
    return write_stage(
        run, pd.concat([table, found.add_prefix("through_")], axis=1), tables, captions=_CAPTIONS
    )
