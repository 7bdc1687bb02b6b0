"""Tables and figure of the honest benchmark, from the scores of its parts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.files import write_table, write_text
from config import EvaluationSettings
from evaluation.comparison import compare_with
from evaluation.figures import save_figure
from models import FITTED_MODELS

PROTOCOLS = ("paper", "beat", "recording", "session")
PART_NAME = re.compile(
    r"(?P<model>.+)-(?P<protocol>paper|beat|recording|session)-seed(?P<seed>\d+)(?P<hidden>(-without-\w+)?)"
)
NO_MEANING = dict.fromkeys(FITTED_MODELS, ("paper", "beat"))
"""Protocols under which some models have no meaning: they read whole recordings, so beats cannot be split."""
NOT_PLOTTED = ("phase-fusion",)
"""Models left out of the figure: the point would lie upon the linear model's."""
REFERENCES = ("linear", "pacfnet")
"""Models that every other one is compared with."""
COMPARED = ["first", "second", "difference", "low", "high", "p", "p_holm", "seeds_first", "seeds_second"]
EMPHASIZED = {"pacfnet": ("PACFNet", "#D55E00"), "linear": ("linear, phase grid", "#0072B2")}
BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 11}
COLUMNS = ["model", "protocol", "seeds", "folds", "beat_auroc", "auroc", "low", "high", "macc", "brier"]


def collect(results_dir: Path) -> pd.DataFrame:
    """Return one row a part that is done: model, protocol, seed and its scores."""
    rows = []
    for path in sorted(results_dir.glob("runs/*/metrics.json")):
        metrics = json.loads(path.read_text(encoding="utf-8"))
        part_name = PART_NAME.fullmatch(path.parent.name)
        if part_name is None:
            continue
        part = {"model": part_name["model"] + part_name["hidden"], "protocol": part_name["protocol"]}
        rows.append(part | {"seed": int(part_name["seed"])} | scores_of(metrics))
    return pd.DataFrame(rows)


def scores_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the scores that the tables show, from a ``metrics.json``."""
    recordings = metrics["recordings"]["at_half"]
    interval = recordings["intervals"]["auroc"]
    beats = metrics["beats"]
    return {
        "folds": metrics["counts"]["folds"],
        "beat_auroc": beats["at_half"]["pooled"]["auroc"] if beats else np.nan,
        "auroc": recordings["pooled"]["auroc"],
        "low": interval["low"],
        "high": interval["high"],
        "macc": recordings["pooled"]["macc"],
        "brier": recordings["pooled"]["brier"],
    }


def over_seeds(parts: pd.DataFrame) -> pd.DataFrame:
    """Return one row a model and protocol: means over seeds, interval bounds too, and how many seeds."""
    grouped = parts.groupby(["model", "protocol"], sort=False)
    table = grouped[[*COLUMNS[3:]]].mean().assign(seeds=grouped.size()).reset_index()
    return table[COLUMNS].round(4)


def markdown(table: pd.DataFrame, models: Sequence[str]) -> str:
    """Return the table of models by protocols: AUROC per recording, and its interval under ``session``."""
    shown = [protocol for protocol in PROTOCOLS if (table["protocol"] == protocol).any()]
    lines = [f"| model | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    known = [name for name in models if (table["model"] == name).any()]
    extra = [name for name in dict.fromkeys(table["model"]) if name not in known]
    for name in [*known, *extra]:
        cells = [cell(table[(table["model"] == name) & (table["protocol"] == p)], name, p) for p in shown]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(rows: pd.DataFrame, model: str, protocol: str) -> str:
    """Return one cell: the AUROC per recording and its interval; n/a without meaning, a dash without run."""
    if protocol in NO_MEANING.get(model, ()):
        return "n/a"
    if rows.empty:
        return "-"
    row = rows.iloc[0]
    seeds = f", {int(row['seeds'])} seeds" if row["seeds"] > 1 else ""
    return f"{row['auroc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]{seeds}"


def story_figure(table: pd.DataFrame, models: Sequence[str]) -> Figure:
    """Draw AUROC per recording by protocol, one line a model; intervals under ``session``."""
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.subplots()
    shown = [protocol for protocol in PROTOCOLS if (table["protocol"] == protocol).any()]
    table = table[table["model"].isin(models)].assign(position=table["protocol"].map(shown.index))
    others = table[~table["model"].isin(EMPHASIZED)]
    for _, rows in others.groupby("model", sort=False):
        rows = rows.sort_values("position")
        axes.plot(rows["position"], rows["auroc"], marker="o", color="#B0B0B0", linewidth=1.0, zorder=2)
    for model, (text, color) in EMPHASIZED.items():
        rows = table[table["model"] == model].sort_values("position")
        if len(rows):
            _draw_emphasized(axes, rows, text, color)
    if len(others):
        last = others[others["position"] == others["position"].max()]["auroc"]
        label = f"{others['model'].nunique()} other networks {last.min():.2f} to {last.max():.2f}"
        axes.annotate(label, (others["position"].max(), last.min()), (8, -16), color="#767676", **BESIDE)
    axes.axhline(0.5, color="#767676", linestyle=":", linewidth=1)
    axes.annotate("chance", (0, 0.5), (0, 4), textcoords="offset points", color="#767676")
    splits = {"paper": "as published", "recording": "record-level split"}
    axes.set_xticks(range(len(shown)), [splits.get(name, f"{name}-level split") for name in shown])
    axes.set(ylabel="AUROC per recording", ylim=(0.4, 1.02), xlim=(-0.2, len(shown) - 0.2))
    axes.set_title("The same models, by what train and test share", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_emphasized(axes: Axes, rows: pd.DataFrame, text: str, color: str) -> None:
    """Draw one model in color, with its name and its last interval."""
    last = rows.iloc[-1]
    axes.plot(rows["position"], rows["auroc"], marker="o", color=color, linewidth=2.5, zorder=3)
    axes.vlines(last["position"], last["low"], last["high"], color=color, alpha=0.5)
    axes.annotate(
        f"{text} {last['auroc']:.2f}", (last["position"], last["auroc"]), (8, 0), color=color, **BESIDE
    )


def session_recordings(results_dir: Path) -> dict[str, pd.DataFrame]:
    """Return the recordings of each model under ``session``, all its seeds below one another."""
    found: dict[str, list[pd.DataFrame]] = {}
    for path in sorted(results_dir.glob("runs/*/recordings.csv")):
        part_name = PART_NAME.fullmatch(path.parent.name)
        if part_name is not None and part_name["protocol"] == "session":
            text = dict.fromkeys(("recording", "session", "person"), str)
            table = pd.read_csv(path, dtype=text).assign(seed=int(part_name["seed"]))
            found.setdefault(part_name["model"] + part_name["hidden"], []).append(table)
    return {name: pd.concat(tables, ignore_index=True) for name, tables in found.items()}


def comparisons(results_dir: Path, draws: int = EvaluationSettings.bootstrap_draws) -> pd.DataFrame:
    """Return each reference against every other model under ``session``: paired, whole sessions resampled.

    Holm's correction is over the comparisons of one reference.
    """
    runs = session_recordings(results_dir)
    tables = []
    for reference in REFERENCES:
        others = {name: table for name, table in runs.items() if name != reference}
        if reference in runs and others:
            tables.append(compare_with(runs[reference], others, draws=draws).assign(reference=reference))
    shown = ["reference", "row", *COMPARED]
    return pd.concat(tables, ignore_index=True)[shown] if tables else pd.DataFrame(columns=shown)


def write_tables(results_dir: Path, models: Sequence[str]) -> str:
    """Write parts.csv, table.csv, comparisons.csv, table.md and the figure; return the table as text."""
    parts = collect(results_dir)
    if parts.empty:
        return f"No part is done in {results_dir}."
    table = over_seeds(parts)
    contents = {"parts": parts, "table": table, "comparisons": comparisons(results_dir)}
    for name, content in contents.items():
        write_table(results_dir / f"{name}.csv", content)
    text = markdown(table, models)
    write_text(results_dir / "table.md", text)
    plotted = [name for name in models if name not in NOT_PLOTTED]
    save_figure(story_figure(table, plotted), results_dir / "auroc_by_protocol.png")
    return text
