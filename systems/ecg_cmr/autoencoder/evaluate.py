"""Judging the autoencoder of frames: what is lost in its latents, as seen and as measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from datasets.splits import fold_from_parts
from models.ecg_cmr.cine_autoencoder import CineAutoencoder
from systems.base.evaluation_run import EvaluationRun
from systems.base.task import CARRIED
from systems.ecg_cmr.cine.measures import MEASURED, measure_cines
from systems.ecg_cmr.evaluate import Tables, write_stage
from systems.ecg_cmr.generation.ground_truth import cines_of, filled, print_tables, truth_of
from systems.ecg_cmr.generation.image_quality import image_scores
from systems.ecg_cmr.phenotypes.scores import indicator_table


def evaluate(run: EvaluationRun) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a run of cine-autoencoder: what is lost in its latents, as seen and as measured."""
    frames, through, parts = [], [], []
    spacing = float(run.cache.manifest["settings"]["pixel_spacing"])
    for content in run.checkpoints:
        samples, network = run.samples, run.model(content).eval()
        assert isinstance(network, CineAutoencoder)
        fold = fold_from_parts(content["fold"], content["parts"].numpy(), content["protocol"])
        rows = np.arange(len(samples)) if run.external else fold.test
        rows = rows[: run.settings.patients]
        cines = cines_of(samples, rows)
        for part in torch.from_numpy(cines).to(samples.cmr.device).split(64):
            through.append(network.decode(network.encode(part)).cpu().numpy())
        frames.append(cines)
        truth = truth_of(samples, rows)
        parts.append(
            pd.concat(
                [
                    samples.table.iloc[rows][list(CARRIED)].reset_index(drop=True).assign(fold=fold.number),
                    truth.add_prefix("true_"),
                ],
                axis=1,
            )
        )
    true, decoded, table = (
        np.concatenate(frames),
        np.concatenate(through),
        pd.concat(parts, ignore_index=True),
    )
    own, found = (measure_cines(cines, spacing) for cines in (true, decoded))
    truth = table[[f"true_{name}" for name in MEASURED]].set_axis(list(MEASURED), axis=1).combine_first(own)
    patient, draws = table["session"].tolist(), run.settings.bootstrap_draws
    tables: Tables = {"images": pd.DataFrame([image_scores(true, decoded)])}
    tables["indicators"] = pd.concat(
        [
            indicator_table(truth[list(MEASURED)], filled(values), patient, draws=draws).assign(source=name)
            for name, values in (("true cine", own), ("true cine through the autoencoder", found))
        ],
        ignore_index=True,
    )
    print_tables(tables)
    return write_stage(run, pd.concat([table, found.add_prefix("through_")], axis=1), tables, {})
