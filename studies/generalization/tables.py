"""Tables of the study of generalization: the figures of both models, the primary comparison, the variants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from common.files import write_table, write_text
from config import EvaluationSettings
from evaluation.calibration import calibration_line, expected_calibration_error
from evaluation.comparison import compare

MODELS = ("linear", "phase-fusion")
MICROPHONES = "generalization_microphones.csv"
ROWS = {
    "session AUROC per recording, both signals": ("", "all"),
    "PCG alone": ("-without-ecg", "all"),
    "ECG alone": ("-without-pcg", "all"),
    "pairs within a fifth of the recording-condition probe": ("", "within fifths of the probe"),
    "pairs within a session": ("", "within sessions"),
    "per person": ("", "per person"),
    "disease against normal and innocent murmur": ("", "disease against normal and innocent murmur"),
    "innocent murmur against normal": ("", "innocent murmur against normal"),
    "mitral valve prolapse against normal": ("", "mitral valve prolapse against normal"),
    "without session C115": ("", "without session C115"),
}
"""Figures by name: what was hidden from the model, and the row of subgroups.csv."""
COMPARED = {
    "session AUROC per recording, both signals (primary)": "",
    "PCG alone": "-without-ecg",
    "ECG alone": "-without-pcg",
}


def write_tables(results_dir: Path) -> str:
    """Write generalization_figures.csv, generalization_comparisons.csv and generalization.md; return it."""
    found = figures(results_dir)
    if found.empty:
        return f"No part is done in {results_dir}."
    write_table(results_dir / "generalization_figures.csv", found)
    compared = comparisons(results_dir)
    write_table(results_dir / "generalization_comparisons.csv", compared)
    text = markdown(found, compared, results_dir / "generalization.csv")
    write_text(results_dir / "generalization.md", text)
    return text


def recordings_of(folder: Path, model: str, hidden: str = "", suffix: str = "") -> pd.DataFrame:
    """Return the recordings of all seeds of a model, below one another; empty where there is none."""
    text = dict.fromkeys(("recording", "session", "person"), str)
    tables = [
        pd.read_csv(path / "recordings.csv", dtype=text).assign(
            seed=int(path.name.split("seed")[1].split("-")[0])
        )
        for path in folders(folder, model, hidden, suffix)
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def folders(folder: Path, model: str, hidden: str = "", suffix: str = "") -> list[Path]:
    """Return the folders of scores of a model, a seed each."""
    found = sorted(folder.glob(f"runs/{model}{suffix}-session-seed[0-9]{hidden}"))
    return [path for path in found if (path / "metrics.json").is_file()]


def figures(results_dir: Path) -> pd.DataFrame:
    """Return one row a figure: of each model the mean over its seeds, and how many there are."""
    rows = []
    for name, (hidden, group) in ROWS.items():
        values = {
            model: [
                float(pd.read_csv(path / "subgroups.csv").set_index("group")["value"].get(group, np.nan))
                for path in folders(results_dir, model, hidden)
            ]
            for model in MODELS
        }
        rows.append({"figure": name} | summary(values))
    automatic = {
        model: [auroc_of(path) for path in folders(results_dir / "generalization", model, suffix="-springer")]
        for model in MODELS
    }
    rows.append({"figure": "automatic onsets"} | summary(automatic))
    for score in ("calibration slope", "expected calibration error"):
        values = {model: calibration(recordings_of(results_dir, model), score) for model in MODELS}
        rows.append({"figure": score} | summary(values))
    table = pd.DataFrame(rows)
    return table[table[list(MODELS)].notna().any(axis=1)].reset_index(drop=True)


def summary(values: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the mean over seeds of each model, and the number of seeds."""
    means = {model: float(np.mean(found)) if found else np.nan for model, found in values.items()}
    return means | {f"{model}_seeds": len(found) for model, found in values.items()}


def auroc_of(folder: Path) -> float:
    """Return the AUROC per recording of a run."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return float(metrics["recordings"]["at_half"]["pooled"]["auroc"])


def calibration(recordings: pd.DataFrame, score: str) -> list[float]:
    """Return the calibration slope or error of each seed."""
    if recordings.empty:
        return []
    parts = [(part["label"], part["probability"]) for _, part in recordings.groupby("seed")]
    if score == "calibration slope":
        return [calibration_line(*part)[0] for part in parts]
    return [expected_calibration_error(*part) for part in parts]


def comparisons(results_dir: Path, draws: int = EvaluationSettings.bootstrap_draws) -> pd.DataFrame:
    """Compare phase fusion (first) with the linear model (second), all seeds, whole sessions resampled."""
    tables = []
    for name, hidden in COMPARED.items():
        both = [recordings_of(results_dir, model, hidden) for model in ("phase-fusion", "linear")]
        if not any(table.empty for table in both):
            tables.append(compare(*both, draws=draws).assign(row=name))
    automatic = [
        recordings_of(results_dir / "generalization", model, suffix="-springer")
        for model in ("phase-fusion", "linear")
    ]
    if not any(table.empty for table in automatic):
        tables.append(compare(*automatic, draws=draws).assign(row="automatic onsets"))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def markdown(found: pd.DataFrame, compared: pd.DataFrame, variants: Path) -> str:
    """Return the figures and comparisons to read."""
    lines = ["| figure | linear | phase-fusion |", "|---|---|---|"]
    for row in found.to_dict("records"):
        lines.append(f"| {row['figure']} | {row['linear']:.3f} | {row['phase-fusion']:.3f} |")
    lines += ["", "| phase-fusion minus linear | difference | 95 % interval | seeds |", "|---|---|---|---|"]
    for row in compared.to_dict("records"):
        interval = f"[{row['low']:+.3f}, {row['high']:+.3f}]"
        lines.append(f"| {row['row']} | {row['difference']:+.3f} | {interval} | {row['seeds_first']} |")
    microphones = variants.with_name(MICROPHONES)
    if microphones.is_file():
        lines += ["", *microphone_lines(pd.read_csv(microphones))]
    if variants.is_file():
        table = pd.read_csv(variants)
        scored = int((table["outer_seeds"] > 0).sum())
        lines += ["", f"{len(table)} variants tried, {scored} of them scored on the outer folds too."]
    return "\n".join(lines) + "\n"


def microphone_lines(table: pd.DataFrame) -> list[str]:
    """Return the AUROC of both models on other signals, the mean over seeds and draws."""
    model = table["run"].str.replace(r"-session-seed\d+$", "", regex=True)
    means = (
        table.assign(model=model).groupby(["kind", "level", "model"], sort=False)["auroc"].mean().unstack()
    )
    lines = ["| signals | linear | phase-fusion |", "|---|---|---|"]
    for (kind, level), row in means.iterrows():
        unit = "Hz" if kind.startswith("rate") else "dB"
        name = kind if kind == "clean" else f"{kind}, {level:g} {unit}"
        lines.append(f"| {name} | {row['linear']:.3f} | {row['phase-fusion']:.3f} |")
    return lines
