"""The HTML report: complete, self-contained, and safe whatever names the data bring."""

import base64
import io
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.figure import Figure

from evaluation.page import LONGEST_TABLE, html_page
from evaluation.report import ROWS
from evaluation.tables import Caption

EVIL = '<script>alert("x")</script>&"\''
VOID = {"meta", "img", "br", "link", "input"}


class Reader(HTMLParser):
    """Collects tags, checks that they are closed in order, and keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str | None] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def metrics(**changed):
    part = {
        "pooled": {"auroc": 0.8123, "macc": None, "tn": 1, "fp": 2, "fn": 3, "tp": 4},
        "intervals": {
            "auroc": {"low": 0.7, "high": 0.9},
            "macc": {"low": None, "high": None, "reason": "all normal recordings come from 1 session"},
        },
        "mean": dict.fromkeys(ROWS, 0.75),
        "standard_deviation": dict.fromkeys(ROWS, 0.125),
        "per_fold": [{}, {}],
    }
    return {
        "protocol": "session",
        "meaning": "sessions are kept apart",
        "stamp": "simulated data",
        "scope": "2 of 5 folds: 30 of 90 recordings",
        "threshold": "half",
        "bootstrap": {"draws": 100, "seed": 0, "cluster": "session"},
        "notes": ["one note"],
        "counts": {"recordings": 30},
        "beats": None,
        "recordings": {"at_half": part},
        "persons": None,
        "run": {"run": "a run", "settings": {"model": {"width": 16}}, "provenance": {"torch": "2.13"}},
    } | changed


@pytest.fixture(scope="module")
def results():
    """Return a short table, a long one and a figure."""
    figure = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(figure)
    return {
        "subgroups.csv": pd.DataFrame({"group": ["all", EVIL], "value": [0.81234, None]}),
        "recordings.csv": pd.DataFrame({"row": range(LONGEST_TABLE + 1)}),
        "figures/roc_recordings.png": figure.getvalue(),
    }


def read(content, files):
    page = html_page("folder", content, files)
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return page, reader, " ".join(" ".join(reader.text).split())


def test_report_says_all_there_is(results):
    _, _, text = read(metrics(), results)
    for expected in ("a run", "session: sessions are kept apart", "simulated data", "one note"):
        assert expected in text
    assert "0.812 [0.700, 0.900]" in text
    assert "Subgroups" in text
    assert "0.812 " in text
    assert f"Recordings (20 of {LONGEST_TABLE + 1} rows, evenly spaced; all are in recordings.csv)" in text
    assert "0.750 ± 0.125 over folds" in text
    assert "1 · 2 · 3 · 4" in text
    assert "Not estimable: all normal recordings come from 1 session." in text
    assert "n/a not estimable" in text, "MAcc"
    for fact in ("model.width 16", "torch 2.13", "30 recordings", "2 of 5 folds", "no medical device"):
        assert fact in text


def test_report_needs_nothing_from_elsewhere(results):
    page, reader, _ = read(metrics(), results)
    assert len(reader.sources) == 1
    kind, content = str(reader.sources[0]).split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == results["figures/roc_recordings.png"]
    assert not re.search(r"(https?:)?//", re.sub(r"base64,[^\"]+", "", page))
    assert {"script", "link", "iframe"}.isdisjoint(reader.tags)


def test_what_data_bring_is_text_and_nothing_else(results):
    content = metrics(
        stamp=EVIL,
        meaning=EVIL,
        notes=[EVIL],
        run={"run": EVIL, "settings": {EVIL: EVIL}, "cache": {"source": EVIL}},
    )
    _, reader, text = read(content, results)
    assert "script" not in reader.tags
    assert text.count(" ".join(EVIL.split())) >= 6


def test_other_tasks_have_a_report_without_scores_of_beats(results):
    _, _, text = read({"protocol": "patient", "meaning": "x", "run": {}}, results)
    assert "Scores" not in text
    assert "Subgroups" in text


def test_tasks_without_such_scores_begin_with_results_and_end_with_the_rows_behind_them(results):
    files = {"predictions.csv": pd.DataFrame({"sample": range(300)} | {f"ecg_{k}": 0.5 for k in range(40)})}
    _, _, text = read({"protocol": "patient", "meaning": "x", "run": {}}, files | results)
    assert text.index("Subgroups") < text.index("Figures") < text.index("Predictions (")
    assert "20 of 300 rows, evenly spaced and 12 of 41 columns; all are in predictions.csv" in text
    assert "ecg 10 " in text
    assert "ecg 11 " not in text


def test_captions_stand_with_tables_and_figures(results):
    captions = {
        "subgroups": Caption("What the parts are.", "Parts", {"value": "AUROC"}),
        "roc_recordings": Caption("What is drawn.", "The curve"),
    }
    page = html_page("folder", metrics(), results, captions)
    assert "<h3>Parts</h3>" in page
    assert "<p>What the parts are.</p>" in page
    assert "<th>AUROC</th>" in page
    assert "<strong>The curve.</strong> What is drawn." in page


def test_the_threshold_column_says_whether_it_is_used():
    files = {"recordings.csv": pd.DataFrame({"recording": ["a"], "threshold": [0.25]})}
    assert "validation threshold (not used)" in html_page("x", metrics(), files)
    used = metrics(threshold="validation", thresholds=[0.25], recordings=None)
    assert "validation threshold (used)" in html_page("x", used, files)
    assert "from the validation part of each fold: 0.250" in html_page("x", used, files)
