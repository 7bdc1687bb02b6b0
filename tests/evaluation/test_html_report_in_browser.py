"""The HTML report as a browser shows it, on a phone and in print; where Chromium is installed."""

import io
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from evaluation.page import html_page
from evaluation.report import ROWS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
PHONE, PAPER, SCREEN = 390, 718, 1200
"""Widths in CSS pixels: a phone, A4 between its margins, a screen."""
MEASURE = """
<body style="margin:0"><iframe id="page" style="border:0" width="{width}" height="900"></iframe>
<pre id="out"></pre>
<script>
const page = document.getElementById("page");
page.onload = () => {{
  const inside = page.contentDocument, root = inside.documentElement;
  const outside = [...inside.querySelectorAll("body *")].filter(
    (item) => !item.closest(".scroll") && item.getBoundingClientRect().right > root.clientWidth + 1
  );
  const tables = [...inside.querySelectorAll(".scroll")];
  document.getElementById("out").textContent = JSON.stringify({{
    width: root.clientWidth, content: root.scrollWidth, height: root.scrollHeight,
    outside: outside.map((item) => item.tagName),
    cut: tables.filter((item) => item.scrollWidth > item.clientWidth + 1).length,
    fetched: page.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name),
    images: [...inside.images].map((image) => image.naturalWidth),
    settings: [...inside.querySelectorAll("details td")].filter((cell) => cell.checkVisibility(
      {{contentVisibilityAuto: true}})).length,
  }});
}};
page.srcdoc = {page};
</script></body>
"""


def chromium(folder, *options):
    """Run Chromium without a window and return what it printed."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--disable-background-networking", "--disable-dev-shm-usage", "--no-first-run"]
    command += [f"--user-data-dir={folder / 'profile'}", "--simulated-time-budget=3000", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def report(folder):
    """Return a report with wide tables, long names, hashes and a wide figure."""
    groups = [f"disease {number} against normal and innocent murmur" for number in range(9)]
    numbers = {name: np.linspace(0, 1, 9) for name in ("n_abnormal", "n_normal", "value", "low", "high")}
    figure, drawn = Figure(figsize=(9, 3)), io.BytesIO()
    figure.subplots().plot([0, 1])
    figure.savefig(drawn, dpi=200)
    files = {"subgroups.csv": pd.DataFrame({"group": groups} | numbers), "roc.png": drawn.getvalue()}
    interval = {"low": 0.7, "high": 0.9}
    score = {
        "pooled": dict.fromkeys(ROWS, 0.8123) | dict.fromkeys(("tn", "fp", "fn", "tp"), 1234),
        "intervals": {"auroc": interval, "macc": interval},
        "mean": dict.fromkeys(ROWS, 0.8123),
        "standard_deviation": dict.fromkeys(ROWS, 0.1),
        "per_fold": [{}, {}],
    }
    unit = {"at_half": score}
    content = {
        "protocol": "session",
        "meaning": "sessions are kept apart",
        "notes": ["A note " * 30],
        "beats": unit,
        "recordings": unit,
        "persons": unit,
        "run": {
            "run": "ecg-pcg-a-run-with-a-name-that-is-very-long-session-small-seed42",
            "settings": {"model": {"widths": list(range(60))}},
            "checkpoints": {f"fold_{number}/best.pt": "0123456789abcdef" * 4 for number in range(5)},
            "changed": ["Note: trained with torch 2.12.0, evaluated with 2.13.0; last digits may differ."],
        },
    }
    path = folder / "report.html"
    path.write_text(html_page("run", content, files), encoding="utf-8")
    return path


def measure(folder, page, width):
    """Return what a browser makes of a page at a width."""
    place = folder / f"measure-{width}.html"
    text = json.dumps(page).replace("</", "<\\/")
    place.write_text(MEASURE.format(width=width, page=text), encoding="utf-8")
    dom = chromium(folder, "--dump-dom", "--window-size=1400,1000", place.as_uri())
    found = re.search(r'<pre id="out">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[-500:]
    return json.loads(found[1])


@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_nothing_sticks_out_and_nothing_is_fetched(folder, report, width):
    seen = measure(folder, report.read_text(encoding="utf-8"), width)
    assert seen["width"] == width
    assert seen["content"] == width
    assert seen["outside"] == []
    assert seen["height"] > 600
    assert [name for name in seen["fetched"] if not name.startswith("data:")] == []
    assert seen["images"] == [1800]
    assert seen["cut"] <= (1 if width == PHONE else 0), "the scores fit a phone"


def test_on_paper_all_is_shown(folder, report):
    """Nothing can be scrolled or unfolded there."""
    page = report.read_text(encoding="utf-8")
    assert page.count("@media print") == 1
    seen = measure(folder, page.replace("@media print", "@media all"), PAPER)
    assert (seen["content"], seen["outside"], seen["cut"]) == (PAPER, [], 0)
    assert seen["settings"] == 2 * (1 + 5), "a setting, five checkpoints: name and value"
    chromium(folder, f"--print-to-pdf={folder / 'report.pdf'}", "--no-pdf-header-footer", report.as_uri())
    content = (folder / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 4


def test_the_page_is_drawn(folder, report):
    shot = folder / "shot.png"
    chromium(folder, f"--screenshot={shot}", "--window-size=800,1200", report.as_uri())
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (1200, 800)
    assert 0.01 < (pixels < 128).mean() < 0.5, "letters on paper"
