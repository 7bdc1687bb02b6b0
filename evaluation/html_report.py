"""One self-contained HTML file of a run's results: tables, figures, settings, versions; needs no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from common.files import write_text
from evaluation.tables import MISSING, ROWS

LONGEST_TABLE = 60
"""Rows up to which a table is shown; longer ones are named."""
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 60rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.note { color: #555; } .watermark { background: #fbe9d7; border-left: 4px solid #d55e00; padding: .5rem .8rem;
} .scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; } th, td { padding:
.25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; } th:first-child,
td:first-child { text-align: left; position: sticky; left: 0; background: #fff; } th { border-bottom: 2px
solid #888; } details, .figures { margin-top: .8rem; } summary { cursor: pointer; } details td { text-align:
left; white-space: normal; overflow-wrap: anywhere; } .figures { display: grid; gap: 1rem;
grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); } figure { margin: 0; break-inside:
avoid; } img { max-width: 100%; height: auto; } figcaption { font-size: .85rem; color: #555; } @media
(max-width: 40rem) { table { font-size: .74rem; }
  th, td { white-space: normal; padding: .25rem; } ul { padding-left: 1.2rem; } }
@media print { body { max-width: none; font-size: 11px; } h2 { break-after: avoid; } table { font-size: 9px; }
  .scroll { overflow: visible; } th, td { white-space: normal; padding: .1rem .3rem; }
  tr { break-inside: avoid; } details::details-content { content-visibility: visible; } }
"""
INTENDED = "Research software. It is no medical device, and nothing here is a diagnosis."


def write_html_report(folder: Path, metrics: Mapping[str, Any], written: Iterable[Path]) -> Path:
    """Write ``report.html`` from what was written to a folder of results; return its path.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the run's results.
    metrics : mapping
        What is in ``metrics.json``: protocol, meaning, watermark, counts, notes, ``run`` with settings and
        versions; of binary tasks the scores of beats, recordings and persons.
    written : iterable of pathlib.Path
        Files of the results: tables (.csv) and figures (.png) among them are shown.
    """
    files = list(written)
    tables = [path for path in files if path.suffix == ".csv"]
    figures = [path for path in files if path.suffix == ".png"]
    run = metrics.get("run", {})
    title = str(run.get("run", folder.name))
    sections = [
        _heading(title, metrics),
        _scores(metrics),
        *(_table(path) for path in tables),
        _figures(figures),
        _metadata("Data", _flat({"counts": metrics.get("counts", {}), "cache": run.get("cache", {})})),
        _metadata("Settings", _flat(run.get("settings", {}))),
        _metadata("Versions", _flat(run.get("provenance", {}))),
        _metadata("Checkpoints (SHA-256)", _flat(run.get("checkpoints", {}))),
        f'<p class="note">{INTENDED}</p>',
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _heading(title: str, metrics: Mapping[str, Any]) -> str:
    lines = [f"<h1>{html.escape(title)}</h1>"]
    if metrics.get("protocol"):
        said = f"Protocol {metrics['protocol']}: {metrics.get('meaning', '')}."
        lines.append(f"<p>{html.escape(said)}</p>")
    if metrics.get("stamp"):
        lines.append(f'<p class="stamp"><strong>{html.escape(str(metrics["stamp"]))}</strong></p>')
    lines += [f'<p class="note">{html.escape(str(note))}</p>' for note in metrics.get("notes", [])]
    changed = [f"<li>{html.escape(str(line))}</li>" for line in metrics.get("run", {}).get("changed", [])]
    if changed:
        lines.append(f'<ul class="note">{"".join(changed)}</ul>')
    return "\n".join(lines)


def _scores(metrics: Mapping[str, Any]) -> str:
    """Return the scores of beats, recordings and persons side by side; nothing for other tasks."""
    place = "at_half" if metrics.get("threshold") != "validation" else "at_validation_threshold"
    units = [name for name in ("beats", "recordings", "persons") if metrics.get(name)]
    if not units:
        return ""
    rows = []
    for score, words in ROWS.items():
        cells = [_score_cell(metrics[unit][place], score) for unit in units]
        rows.append([words, *cells])
    return f"<h2>Scores</h2>\n{_grid(['score', *units], rows)}"


def _score_cell(part: Mapping[str, Any], score: str) -> str:
    value, found = part["pooled"].get(score), part["intervals"].get(score)
    ends = "" if not found or found["low"] is None else f" [{found['low']:.3f},\u00a0{found['high']:.3f}]"
    return MISSING if value is None else f"{value:.3f}{ends}"


def _table(path: Path) -> str:
    """Return a short table; a long one is named only."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    name = html.escape(path.stem.replace("_", " ").capitalize())
    if len(table) > LONGEST_TABLE:
        return f'<p class="note">{name}: {len(table):,} rows, in {html.escape(path.name)}.</p>'
    rows = [[_rounded(cell) for cell in row] for row in table.itertuples(index=False)]
    return f"<h2>{name}</h2>\n{_grid([str(head).replace('_', ' ') for head in table], rows)}"


def _rounded(cell: str) -> str:
    """Return a number with three decimals, a count or a word as it is, n/a for nothing."""
    if not cell:
        return MISSING
    try:
        return f"{float(cell):.3f}" if "." in cell or "e" in cell.lower() else cell
    except ValueError:
        return cell


def _figures(paths: Iterable[Path]) -> str:
    drawn = []
    for path in paths:
        content = base64.b64encode(path.read_bytes()).decode("ascii")
        name = html.escape(path.stem.replace("_", " "))
        drawn.append(
            f'<figure><img alt="{name}" src="data:image/png;base64,{content}"><figcaption>{name}</figcaption>'
            "</figure>"
        )
    return f'<h2>Figures</h2>\n<div class="figures">{"".join(drawn)}</div>' if drawn else ""


def _metadata(title: str, metadata: Mapping[str, Any]) -> str:
    if not metadata:
        return ""
    rows = [[key, "" if value is None else str(value)] for key, value in metadata.items()]
    return f"<details><summary>{html.escape(title)}</summary>\n{_grid(['', ''], rows)}\n</details>"


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested metadata as one level, names joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _grid(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return an HTML table; every cell is escaped."""

    def line(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    head = line(heads, "th")
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>\n{body}\n</tbody></table></div>'
