"""Tables and figure of the honest benchmark, from the scores of its parts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.files import write_table, write_text
from config import EvaluationSettings
from evaluation.comparison import compare_with
from evaluation.figures import save_figure
from evaluation.tables import interval_text
from models import FITTED_MODELS

PROTOCOLS = ("paper", "beat", "recording", "session")
PART_NAME = re.compile(
    r"(?P<model>.+)-(?P<protocol>paper|beat|recording|session)-seed(?P<seed>\d+)(?P<hidden>(-without-\w+)?)"
)
NO_MEANING = dict.fromkeys(FITTED_MODELS, ("paper", "beat"))
"""Protocols under which some models have no meaning: they read whole recordings, so beats cannot be split."""
REFERENCES = ("linear", "pacfnet")
"""Models that every other one is compared with."""
COMPARED = ["first", "second", "difference", "low", "high", "p", "p_holm", "seeds_first", "seeds_second"]
STYLES = (("#767676", "x"), ("#E69F00", "D"), ("#56B4E9", "s"), ("#0072B2", "o"))
"""Colour and marker of each protocol, the last one that of the session-level split."""
LABELS = {"paper": "as published", "recording": "record-level split", "session": "session-level split, 95 %"}
BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 9}
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
    return table[COLUMNS]


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
    return f"{row['auroc']:.3f} {interval_text(row['low'], row['high'], 'too few sessions')}{seeds}"


def story_figure(table: pd.DataFrame, models: Sequence[str]) -> Figure:
    """Draw the AUROC per recording, a line a model and a point a protocol; intervals of the last protocol."""
    shown = [protocol for protocol in PROTOCOLS if (table["protocol"] == protocol).any()]
    table = table[table["model"].isin(models)]
    last = table[table["protocol"] == shown[-1]].set_index("model")["auroc"]
    names = sorted(dict.fromkeys(table["model"]), key=lambda name: -last.get(name, -1.0))
    figure = Figure(figsize=(8.5, 0.34 * len(names) + 1.6), layout="constrained")
    axes = figure.subplots()
    for protocol, (color, marker) in zip(shown, STYLES[-len(shown) :], strict=True):
        rows = table[table["protocol"] == protocol]
        at = [names.index(name) for name in rows["model"]]
        style: dict[str, Any] = {"color": color, "marker": marker, "s": 46, "zorder": 3}
        axes.scatter(rows["auroc"], at, label=LABELS.get(protocol, f"{protocol}-level split"), **style)
        if protocol == shown[-1]:
            axes.hlines(at, rows["low"], rows["high"], color=color, linewidth=2)
            for row, place in zip(rows.itertuples(), at, strict=True):
                axes.annotate(f"{row.auroc:.2f}", (row.auroc, place), (0, 9), ha="center", **BESIDE)
    axes.axvline(0.5, color="#767676", linestyle=":", linewidth=1)
    axes.annotate("chance", (0.5, len(names) - 0.55), (4, 0), color="#767676", **BESIDE)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="AUROC per recording", xlim=(0.4, 1.02), ylim=(len(names) - 0.4, -0.8))
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(shown), frameon=False)
    return figure


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
    save_figure(story_figure(table, models), results_dir / "auroc_by_protocol.png")
    return text
