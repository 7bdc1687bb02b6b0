"""How predict.py tells what a run of ``ecg-phenotypes`` says of an ECG."""

from __future__ import annotations

import math
from typing import Any

from evaluation.figure_text import rounded_probability
from systems.base.predictor import Words

Metadata = dict[str, Any]
SEXES = ("male", "female")
UNITS = {"age": " years", "height": " cm", "weight": " kg"}


def tell_model(model: Metadata) -> list[str]:
    """Return what the model is and what it learned from."""
    count, learned = len(model["checkpoints"]), model["trained_on"]
    virtual = "virtual " * model["simulated"]
    return [
        f"Model: ecg-phenotypes of run {model['run']}{f', mean of {count} folds' * (count > 1)}.",
        f"Learned from {learned['recordings']} {virtual}patients of {learned['source']}.",
    ]


def tell_recording(row: Metadata) -> list[str]:
    """Return indicators and diseases as tables, then what they were made from."""
    lines = _indicator_lines(row["indicators"]) + _disease_lines(row["diseases"])
    known = ", ".join(f"{name} {_covariate(name, value)}" for name, value in row["covariates"].items())
    lines.append(
        f"made from  12-lead ECG, {row['duration']:.1f} s at {row['sampling_rate']:g} Hz"
        + (f"; {known}" if known else "")
    )
    if row["models_trained_on_it"]:
        lines.append(f"models     {row['models']}; others were trained on this recording")
    return lines


def tell_shortly(row: Metadata) -> str:
    """Return the first indicator, ejection fraction if there is one, and the most probable disease."""
    parts = []
    if row["indicators"]:
        name = (
            "ejection_fraction" if "ejection_fraction" in row["indicators"] else next(iter(row["indicators"]))
        )
        parts.append(f"{plain(name)} {value_text(row['indicators'][name])}")
    if row["diseases"]:
        name = max(row["diseases"], key=lambda name: row["diseases"][name]["probability"])
        parts.append(f"{plain(name)} {rounded_probability(row['diseases'][name]['probability'])}")
    return ", ".join(parts)


def _indicator_lines(rows: dict[str, Metadata]) -> list[str]:
    """Return the table of indicators."""
    if not rows:
        return []
    width = max(len("indicator"), *(len(plain(name)) for name in rows))
    lines = [f"{'indicator':{width}}  {'predicted':>12}  {'90 % interval':>18}  R2 on validation"]
    for name, row in rows.items():
        lines.append(f"{plain(name):{width}}  {value_text(row):>12}  {interval_text(row):>18}  {_r2(row)}")
    return [line.rstrip() for line in lines]


def _disease_lines(rows: dict[str, Metadata]) -> list[str]:
    """Return the table of diseases."""
    if not rows:
        return []
    width = max(len("disease"), *(len(plain(name)) for name in rows))
    lines = [f"{'disease':{width}}  {'probability':>12}  {'had it in training':>18}  AUROC on validation"]
    for name, row in rows.items():
        share = "" if row["trained_share"] is None else f"{row['trained_share']:.0%}"
        said, area = rounded_probability(row["probability"]), row["auroc"]
        score = (
            "unknown"
            if area is None
            else f"{area:.2f}{'' if row['better'] else ', not shown to beat chance'}"
        )
        lines.append(f"{plain(name):{width}}  {said:>12}  {share:>18}  {score}")
    return lines


def _r2(row: Metadata) -> str:
    if row["r2"] is None:
        return "unknown"
    return f"{row['r2']:.2f}{'' if row['better'] else ', not shown to beat the mean'}"


def _covariate(name: str, value: float) -> str:
    return SEXES[round(value)] if name == "sex" else f"{value:g}{UNITS.get(name, '')}"


def plain(name: str) -> str:
    """Return the name of an indicator or a disease as it is read."""
    return name.removeprefix("disease_").replace("_", " ")


def number_text(row: Metadata, value: float) -> str:
    """Return a number with as many decimals as the spread over patients makes worth saying."""
    digits = 1 - math.floor(math.log10(row["trained_deviation"])) if row["trained_deviation"] > 0 else 2
    return f"{value:.{min(max(digits, 0), 6)}f}"


def value_text(row: Metadata) -> str:
    """Return what is predicted of an indicator, with its unit."""
    return f"{number_text(row, row['value'])} {row['unit'] or ''}".strip()


def interval_text(row: Metadata) -> str:
    """Return the interval of an indicator."""
    if row["low"] is None:
        return "unknown"
    return f"{number_text(row, row['low'])} to {number_text(row, row['high'])}"


WORDS = Words(tell_model, tell_recording, "in short", tell_shortly)
