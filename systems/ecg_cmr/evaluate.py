"""Results of the stages of the ECG-CMR chain, printed and written alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from evaluation.report import PROTOCOLS, identity_sentence, json_safe
from evaluation.tables import Caption
from systems.base.evaluation_run import EvaluationRun
from systems.base.results import LEARNING_CURVES, print_tables, table_sections, write_results

_RESTRICTED = (
    "The licence of these data forbids to pass on what is said of a single patient. Patients have pseudonyms "
    "here; keep predictions.csv to yourself all the same, and share the tables of scores alone."
)


def write_stage(
    run: EvaluationRun,
    predictions: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure] | None = None,
    captions: Mapping[str, Caption] | None = None,
) -> tuple[dict[str, Any], list[Path]]:
    """Print the tables of a stage and write its results; return its metrics and the files written."""
    print()
    captions = {"learning_curves": LEARNING_CURVES} | dict(captions or {})
    scope = run.scope(predictions["recording"].nunique())
    print(f"{scope}\n")
    print_tables(tables, captions=captions)
    metrics: dict[str, Any] = json_safe(
        {
            "protocol": run.protocol,
            "meaning": PROTOCOLS[run.protocol],
            "stamp": run.watermark,
            "scope": scope,
            "counts": {"recordings": len(predictions), "patients": int(predictions["session"].nunique())},
            "bootstrap": {"draws": run.settings.bootstrap_draws, "cluster": "patient"},
            **{name: table.to_dict("records") for name, table in tables.items()},
            "run": run.metadata,
        }
    )
    watermark = f" **{run.watermark}**" if run.watermark else ""
    head = f"Protocol `{run.protocol}`: {PROTOCOLS[run.protocol]}.{watermark}"
    shown = {} if run.settings.compact else dict(figures or {}) | run.learning_curves()
    files: dict[str, pd.DataFrame | Figure] = {"predictions.csv": predictions}
    files |= {f"{name}.csv": table for name, table in tables.items()}
    files |= {f"figures/{name}.png": figure for name, figure in shown.items()}
    if run.cache.manifest.get("restricted"):
        print(_RESTRICTED)
        head = f"{head}\n\n{_RESTRICTED}"
    sections = [head, f"{identity_sentence(metrics)}.", f"{scope}.", *table_sections(tables, captions)]
    return metrics, write_results(
        run.folder, metrics, files, sections, page=not run.settings.compact, captions=captions
    )
