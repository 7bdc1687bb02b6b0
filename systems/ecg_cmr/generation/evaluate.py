"""Evaluation of a run of ``ecg-to-cmr``: measurements in generated cines, and image quality.

Ejection fraction, volumes, mass and wall thickness measured in generated cines are compared with the truth,
beside the measuring method's own error on true cines, and beside baselines fitted on the same training
patients. A single generated cine also varies in what an ECG does not determine. So it cannot correlate with
the truth better than by the share of the variance that the ECG determines, where a regression reaches the
square root of it. The mean of what is measured in several samples is what is compared with a regression.

The measuring method knows the short axis only. In a long axis the indicators are read: by ridge regression
from the features of the run's CMR encoder, fitted to the true cines of the training patients (as Ding et al.
judge generated cines by the indicators that a network predicts from them).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from common.errors import UserError
from datasets.splits import Fold, assert_separated, fold_from_parts
from evaluation.tables import Caption
from models.ecg_cmr.cine_generator import CineGenerator
from models.ecg_cmr.transformer import pool_tokens
from systems.base.evaluation_run import EvaluationRun
from systems.base.task import CARRIED
from systems.ecg_cmr.cine.measures import MEASURED, measure_cines
from systems.ecg_cmr.evaluate import write_stage
from systems.ecg_cmr.figures import bland_altman_figure, story_figure
from systems.ecg_cmr.generation.image_quality import (
    diversity,
    frechet_distance,
    image_scores,
    memorization_table,
)
from systems.ecg_cmr.generation.plausible import NOT_FOUND, measure_generated
from systems.ecg_cmr.generation.sampling import (
    FEWEST,
    Bytes,
    SamplingConfig,
    fit_ridge,
    nearest_neighbours,
    regressed_cines,
    regressed_indicators,
    sample_cines,
    to_bytes,
)
from systems.ecg_cmr.generation.task import EncodedPairs, encoded_pairs, frechet_encoder
from systems.ecg_cmr.phenotypes.evaluate import compare_indicator, indicator_table
from systems.ecg_cmr.samples import Pairs, spacing_of

TRUE, GENERATED = "true_", "generated_mean_of_samples_"
"""Prefixes, in the predictions, of the columns of the truth and of what is measured in generated cines."""
_GUIDANCES = (1.0, 1.5, 2.0, 3.0)
"""Scales to choose from; 1 is plain conditional."""
_SAMPLES_TO_CHOOSE = 4
_CHOSEN_BY = "ejection_fraction"
"""Indicator by which guidance is chosen and patients are shown."""
_SHOWN = 3
"""Patients of the story figure."""
_AT_ONCE = 64
"""Cines that are encoded together."""
_CAPTIONS = {
    "guidance": Caption(
        "Scales of the guidance on the validation part: how strongly a cine follows the ECG. r is the "
        "correlation of the ejection fraction with the truth; one other than 1 is chosen only where it is "
        "better beyond chance."
    ),
    "indicators": Caption(
        "Measured in cines of each source, beside the truth (in a long axis: read by regression from its "
        "features). The true cine is the error of measuring alone. "
        "Bias and mean absolute error are in the unit of the indicator (mL, %, g, mm)."
    ),
    "comparisons": Caption(
        "Correlation with the truth of the mean over generated cines and of a regression from the same ECG."
    ),
    "spread": Caption(
        "How far samples of one ECG differ (standard deviation), and how often the truth lies between the "
        "least and the greatest of them, beside how often it would if they followed the true distribution."
    ),
    "images": Caption(
        "Likeness to the true cine: SSIM is 1 at best, PSNR is in decibels. Frechet: distance of the "
        "features of all cines, 0 at best."
    ),
    "diversity": Caption("How different samples are, of one ECG and of different ones."),
    "memorization": Caption("Whether generated cines are copies of cines that were trained on."),
    "bland_altman": Caption(
        "Difference of what is measured in generated cines and the truth, over their mean. Red: bias. "
        "Dashed: 95 % limits of agreement."
    ),
    "bland_altman_method": Caption(
        "The same for true cines: what the measuring method gets wrong by itself."
    ),
    "story": Caption(
        "Three patients at the 5th, 50th and 95th percentile of the ejection fraction (EF) measured in the "
        "generated cines: ECG, true cine, and one generated cine, not chosen among several."
    ),
}


@dataclasses.dataclass(frozen=True)
class _Generated:
    """One fold of a run of ``ecg-to-cmr``, and what it is evaluated on.

    Attributes
    ----------
    run : EvaluationRun
    samples : EncodedPairs
    network : CineGenerator
    fold : Fold
        Its test part cut to the patients who are evaluated.
    spacing : float
        Millimetres a pixel.
    axis : str
        Of the cines, short or long.
    sampling : SamplingConfig
        From the settings; the guidance is still to be chosen where it is 0.
    """

    run: EvaluationRun
    samples: EncodedPairs
    network: CineGenerator
    fold: Fold
    spacing: float
    axis: str
    sampling: SamplingConfig

    @property
    def patients(self) -> list[str]:
        """Patient of each row of the test part."""
        return self.patients_of(self.fold.test)

    def patients_of(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the patient of each of some rows."""
        return self.samples.table["session"].to_numpy()[rows].tolist()

    def generate(self, rows: NDArray[np.int64], sampling: SamplingConfig, label: str) -> Bytes:
        """Return cines generated from the ECGs of some rows, (N, samples, frames, H, W)."""
        condition = self.samples.condition[torch.from_numpy(rows)]
        return sample_cines(self.network, condition, rows.tolist(), sampling, label)

    def measure(self, cines: NDArray[Any]) -> pd.DataFrame:
        """Return the indicators of cines (N, frames, H, W), bytes or 0 to 1: measured, or read (long)."""
        if self.axis == "long":
            return self.read(cines)
        return measure_cines(_as_brightness(cines), self.spacing)

    @functools.cached_property
    def _readers(self) -> dict[str, Pipeline]:
        """Regressions from the features of the true training cines to the stated indicators, by name."""
        known = stated_indicators(self.samples, self.fold.train)
        features = _features(self, cines_of(self.samples, self.fold.train))
        if features is None or (known.notna().sum() < FEWEST).any():
            raise UserError(
                "A generated long axis is judged by indicators that a regression reads from its features: "
                f"{', '.join(MEASURED)} must be known of {FEWEST} training patients each."
            )
        rows = {name: known[name].notna().to_numpy() for name in known}
        return {name: fit_ridge(features[rows[name]], known[name][rows[name]]) for name in known}

    def read(self, cines: NDArray[Any]) -> pd.DataFrame:
        """Return the indicators that the regressions give for the features of cines (N, frames, H, W)."""
        features = _features(self, _as_brightness(cines))
        return pd.DataFrame({name: reader.predict(features) for name, reader in self._readers.items()})

    def measure_samples(self, generated: Bytes) -> tuple[list[pd.DataFrame], list[str]]:
        """Return what is measured in each sample of all patients, a table a sample, and why nothing is."""
        if self.axis == "long":
            each = [self.read(generated[:, sample]) for sample in range(generated.shape[1])]
            return each, [""] * generated.shape[0] * generated.shape[1]
        found = [
            measure_generated(_as_brightness(generated[:, sample]), self.spacing)
            for sample in range(generated.shape[1])
        ]
        return [table for table, _ in found], [reason for _, reasons in found for reason in reasons]

    def latents(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the standardized latents of the true cines of some rows, (N, values)."""
        return self.samples.data[torch.from_numpy(rows)].flatten(1).cpu().numpy()

    def latents_of(self, cines: Bytes) -> NDArray[np.float32]:
        """Return the standardized latents of other cines, (N, values)."""
        encode, device = self.network.autoencoder.encode, self.samples.data.device
        parts = torch.from_numpy(cines).split(_AT_ONCE)
        found = [self.network.standardized(encode(part.float().to(device) / 255)) for part in parts]
        return torch.cat(found).flatten(1).cpu().numpy()

    def through_autoencoder(self) -> Bytes:
        """Return the true cines of the test part as decoded from their latents."""
        return to_bytes(self.network.cines_of(self.samples.data[torch.from_numpy(self.fold.test)]))

    def nearest_cines(self) -> NDArray[np.float32]:
        """Return for each test patient the cine of the training patient with the most similar ECG."""
        train, test = (torch.from_numpy(rows) for rows in (self.fold.train, self.fold.test))
        near = nearest_neighbours(self.samples.condition, train, test)
        return cines_of(self.samples, near.numpy())


def evaluate(run: EvaluationRun) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a run, write its results, and return its metrics and the files written."""
    generator = _open(run)
    test = generator.fold.test
    truth = _truth(generator, test)
    guidances, guidance = _choose_guidance(generator)
    sampling = dataclasses.replace(generator.sampling, guidance=guidance)
    generated = generator.generate(test, sampling, "test")
    measured, reasons = generator.measure_samples(generated)
    found = _baselines(generator, measured)
    latents = generator.latents_of(generated.reshape(-1, *generated.shape[2:]))
    latents = latents.reshape(*generated.shape[:2], -1)
    true_latents = generator.latents(test)
    tables = {
        "guidance": guidances,
        "indicators": _indicators(generator, truth, found),
        "comparisons": _comparisons(generator, truth, found),
        "spread": _spread(truth, measured),
        "not_found": _not_found(reasons),
        "images": _images(generator, generated[:, 0]),
        "diversity": pd.DataFrame([diversity(latents, true_latents)]),
        "memorization": memorization_table(
            generator.latents_of(generated[:, 0]), true_latents, generator.latents(generator.fold.train)
        ),
    }
    figures = {} if run.settings.compact else _figures(generator, truth, measured, generated)
    return write_stage(run, _predictions(generator, truth, found), tables, figures, _CAPTIONS)


def _open(run: EvaluationRun) -> _Generated:
    """Open the run of one fold, encode its patients, and choose who is evaluated."""
    if run.external or len(run.checkpoints) != 1:
        raise UserError(
            "A run of ecg-to-cmr is evaluated one fold at a time, on the cache that it was trained from: "
            "name a checkpoint, as in --checkpoint checkpoints/<run>/fold_0/best.pt."
        )
    content, settings = run.checkpoints[0], run.settings
    samples, network = run.samples, run.model(content)
    assert isinstance(network, CineGenerator)
    fold = fold_from_parts(content["fold"], content["parts"].numpy(), content["protocol"])
    assert_separated(fold, samples.table, content["protocol"])
    order = np.random.default_rng(0).permutation(len(fold.test))[: settings.max_patients]
    fold = Fold(fold.number, fold.train, fold.validation, fold.test[np.sort(order)])
    rows = torch.from_numpy(np.concatenate([fold.train, fold.validation, fold.test]))
    sampling = SamplingConfig(settings.steps, settings.samples, settings.guidance, settings.batch_size)
    axis = content["settings"].get("axis", "short")
    spacing = spacing_of(run.cache.manifest["settings"], axis)
    return _Generated(run, encoded_pairs(samples, network, rows), network, fold, spacing, axis, sampling)


def _as_brightness(cines: NDArray[Any]) -> NDArray[np.float32]:
    """Return cines, bytes or 0 to 1, as brightness from 0 to 1."""
    return cines.astype(np.float32) / np.float32(255 if cines.dtype == np.uint8 else 1)


def cines_of(samples: Pairs, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the true cines of some rows, 0 to 1."""
    return _as_brightness(samples.cmr[torch.from_numpy(rows).to(samples.cmr.device)].cpu().numpy())


def stated_indicators(samples: Pairs, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Return the indicators among `MEASURED` that the data state of some rows; NaN where they do not."""
    names = samples.names["indicators"]
    values = samples.targets["indicators"].cpu().numpy()[rows]
    stated = {name: values[:, names.index(name)] for name in MEASURED if name in names}
    return pd.DataFrame(stated, index=range(len(rows))).reindex(columns=list(MEASURED))


def filled(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the mean of each column where nothing could be measured."""
    return table.fillna(table.mean())


def _truth(generator: _Generated, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Return the true indicators of some rows, measured in the true cine where none is stated."""
    stated = stated_indicators(generator.samples, rows)
    if stated.notna().all().all():
        return stated
    if generator.axis == "long":
        raise UserError(
            f"A generated long axis is compared with {', '.join(MEASURED)} of every patient evaluated, "
            "and the data lack some."
        )
    own = generator.measure(cines_of(generator.samples, rows))
    return stated.combine_first(own)[list(MEASURED)]


def _mean_of_tables(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the mean of tables of one shape, over those that are known."""
    values = np.stack([table.to_numpy(float) for table in tables])
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(axis=0), known.sum(axis=0)
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return pd.DataFrame(mean, columns=tables[0].columns)


def _choose_guidance(generator: _Generated) -> tuple[pd.DataFrame, float]:
    """Return the scores of each scale on the validation part, and the scale to use.

    A scale other than 1 is chosen only if its correlation is higher than that of 1 by more than chance.
    """
    rows, given = generator.fold.validation, generator.sampling.guidance
    if given or len(rows) < 3:
        return pd.DataFrame([{"guidance": given or 1.0, "chosen": True}]), given or 1.0
    truth, patient = _truth(generator, rows)[_CHOSEN_BY], generator.patients_of(rows)
    found, table = {}, []
    for scale in _GUIDANCES:
        sampling = dataclasses.replace(generator.sampling, samples=_SAMPLES_TO_CHOOSE, guidance=scale)
        generated = generator.generate(rows, sampling, f"guidance {scale:g}")
        found[scale] = filled(_mean_of_tables(generator.measure_samples(generated)[0]))[_CHOSEN_BY]
        row: dict[str, Any] = {"guidance": scale, "r": float(np.corrcoef(truth, found[scale])[0, 1])}
        if scale != 1:
            draws = generator.run.settings.bootstrap_draws
            row |= compare_indicator(truth, found[scale], found[1.0], patient, draws=draws)
        table.append(row)
    result = pd.DataFrame(table)
    better = result[result.get("low", pd.Series(dtype=float)) > 0]
    chosen = float(better.loc[better["r"].idxmax(), "guidance"]) if len(better) else 1.0
    return result.assign(chosen=result["guidance"] == chosen), chosen


# Indicators -----------------------------------------------------------------------------------------


def _baselines(generator: _Generated, measured: list[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the indicators of the test patients by each way to estimate them."""
    test, train, samples = generator.fold.test, generator.fold.train, generator.samples
    known = stated_indicators(samples, train)
    if known.isna().all().any():
        known = known.combine_first(generator.measure(cines_of(samples, train)))[list(MEASURED)]
    mean = _mean_of_tables(measured)
    other = np.roll(np.arange(len(mean)), len(mean) // 2)
    return {
        "true cine": generator.measure(cines_of(samples, test)),
        "true cine through the autoencoder": generator.measure(generator.through_autoencoder()),
        "generated, mean of samples": mean,
        "generated, one sample": measured[0],
        "generated from another's ECG": mean.loc[other].reset_index(drop=True),
        "regression from the ECG": regressed_indicators(samples.condition, known, train, test),
        "nearest ECG of training": generator.measure(generator.nearest_cines()),
        "mean of training": pd.DataFrame([known.mean()] * len(test)).reset_index(drop=True),
    }


def _indicators(
    generator: _Generated, truth: pd.DataFrame, found: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """Return the scores of each indicator by each way, the measuring method's own error first."""
    manifest, draws = generator.run.cache.manifest, generator.run.settings.bootstrap_draws
    tables = []
    for name, values in found.items():
        ceilings = {} if name.startswith("true") else manifest.get("ceilings", {})
        known = filled(values)
        table = indicator_table(truth, known, generator.patients, ceilings, draws=draws)
        lost = values.isna().to_numpy().sum(axis=0)
        tables.append(table.assign(source=name, not_found=lost, bias=(known - truth).mean().to_numpy()))
    table = pd.concat(tables, ignore_index=True)
    return table[["source", *(column for column in table if column != "source")]]


def _comparisons(
    generator: _Generated, truth: pd.DataFrame, found: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """Return r of the generated cines beside that of regression, their ratio, and the paired difference."""
    draws = generator.run.settings.bootstrap_draws
    cines, line = filled(found["generated, mean of samples"]), found["regression from the ECG"]
    rows: list[dict[str, Any]] = []
    for name in MEASURED:
        r = [float(np.corrcoef(truth[name], values[name])[0, 1]) for values in (cines, line)]
        scores = {"indicator": name, "generated": r[0], "regression": r[1], "ratio": r[0] / r[1]}
        difference = compare_indicator(truth[name], cines[name], line[name], generator.patients, draws=draws)
        rows.append(scores | difference)
    return pd.DataFrame(rows)


def _spread(truth: pd.DataFrame, measured: list[pd.DataFrame]) -> pd.DataFrame:
    """Return how far samples of one ECG differ, beside how far their mean is from the truth.

    If samples follow the true distribution, the truth is one more sample: it lies between the least and the
    greatest of n in (n - 1) / (n + 1) of the patients.
    """
    rows: list[dict[str, Any]] = []
    for name in MEASURED:
        values = np.stack([filled(table)[name].to_numpy() for table in measured])
        real, count = truth[name].to_numpy(), len(values)
        inside = (real >= values.min(axis=0)) & (real <= values.max(axis=0))
        rows.append(
            {
                "indicator": name,
                "samples": count,
                "spread": float(values.std(axis=0, ddof=1).mean()) if count > 1 else np.nan,
                "error_of_mean": float(np.sqrt(((values.mean(axis=0) - real) ** 2).mean())),
                "truth_inside": float(inside.mean()),
                "expected_inside": (count - 1) / (count + 1),
            }
        )
    return pd.DataFrame(rows)


def _not_found(reasons: list[str]) -> pd.DataFrame:
    """Return in how many generated cines nothing is found, by reason; scores take the mean in their place."""
    counts = pd.Series([reason for reason in reasons if reason], dtype=str).value_counts()
    rows = [{"reason": reason, "cines": int(count), "of": len(reasons)} for reason, count in counts.items()]
    return pd.DataFrame(rows or [{"reason": "none", "cines": 0, "of": len(reasons)}])


def _predictions(
    generator: _Generated, truth: pd.DataFrame, found: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """Return a row a test patient: metadata, the truth, and each way's indicators."""
    table = generator.samples.table.iloc[generator.fold.test][list(CARRIED)].reset_index(drop=True)
    parts = [table.assign(fold=generator.fold.number), truth.add_prefix(TRUE)]
    for name, values in found.items():
        if name != "mean of training":
            parts.append(values.add_prefix(name.replace(",", "").replace("'", "").replace(" ", "_") + "_"))
    return pd.concat(parts, axis=1)


# Images ---------------------------------------------------------------------------------------------


def _images(generator: _Generated, first: Bytes) -> pd.DataFrame:
    """Return SSIM and PSNR a frame, and the Frechet distance of features, of each source of cines."""
    test, train, samples = generator.fold.test, generator.fold.train, generator.samples
    others = train[np.linspace(0, len(train) - 1, len(test)).astype(int)]
    mean = cines_of(samples, train).mean(axis=0, keepdims=True)
    sources: dict[str, NDArray[Any]] = {
        "true cine through the autoencoder": generator.through_autoencoder(),
        "generated": first,
        "nearest ECG of training": generator.nearest_cines(),
        "regression from the ECG": regressed_cines(generator.network, samples, train, test),
        "mean of training": mean.repeat(len(test), axis=0),
        "true cines of other patients": cines_of(samples, others),
    }
    truth = cines_of(samples, test)
    real = _features(generator, truth)
    rows: list[dict[str, Any]] = []
    for name, cines in sources.items():
        values = _as_brightness(cines)
        found = _features(generator, values)
        distance = np.nan if real is None or found is None else frechet_distance(real, found)
        rows.append({"cines": name} | image_scores(truth, values) | {"frechet": distance})
    return pd.DataFrame(rows)


@torch.no_grad()
def _features(generator: _Generated, cines: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Return features (N, width) of cines by the CMR encoder of the run; None if it has none."""
    encoder = frechet_encoder(generator.network)
    if encoder is None:
        return None
    parts = torch.from_numpy(cines).to(generator.samples.data.device).split(_AT_ONCE)
    return torch.cat([pool_tokens(*encoder.encode_with_mask(part)) for part in parts]).double().cpu().numpy()


def _figures(
    generator: _Generated, truth: pd.DataFrame, measured: list[pd.DataFrame], generated: Bytes
) -> dict[str, Figure]:
    """Return the Bland-Altman figures and the story of three patients."""
    own = generator.measure(cines_of(generator.samples, generator.fold.test))
    subject = f"{len(truth):,} unseen patients · found minus true, 95 % limits"
    mean, watermark = filled(_mean_of_tables(measured)), generator.run.watermark
    return {
        "bland_altman": bland_altman_figure(
            truth, mean, title="Measured in generated cines", subject=subject, watermark=watermark
        ),
        "bland_altman_method": bland_altman_figure(
            truth, filled(own), title="Measured in true cines", subject=subject, watermark=watermark
        ),
        "story": _story(generator, truth, measured, generated),
    }


def _story(
    generator: _Generated, truth: pd.DataFrame, measured: list[pd.DataFrame], generated: Bytes
) -> Figure:
    """Return the figure of three patients: low, middle and high in the ejection fraction estimated."""
    samples, test = generator.samples, generator.fold.test
    order = np.argsort(filled(_mean_of_tables(measured))[_CHOSEN_BY].to_numpy())
    chosen = order[(np.linspace(0.05, 0.95, _SHOWN) * (len(order) - 1)).astype(int)]
    lead = list(generator.run.cache.manifest["leads"]).index("II")
    patients: list[dict[str, object]] = [
        {
            "name": str(samples.table["recording"].iloc[test[number]]),
            "ecg": samples.ecg[test[number], lead].cpu().numpy(),
            "true": cines_of(samples, test[[number]])[0],
            "generated": generated[number, 0] / 255,
            "said": {
                "true": _fraction_text(truth[_CHOSEN_BY].iloc[number]),
                "generated": _fraction_text(measured[0][_CHOSEN_BY].iloc[number]),
            },
        }
        for number in chosen
    ]
    return story_figure(
        patients,
        samples.ecg_rate,
        chosen="5th, 50th, 95th percentile of the generated EF",
        watermark=generator.run.watermark,
    )


def _fraction_text(value: float) -> str:
    """Return an ejection fraction for the figure."""
    return f"EF {value:.0f} %" if np.isfinite(value) else f"EF {NOT_FOUND}"
