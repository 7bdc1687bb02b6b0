"""The tables of a cache, written piece by piece."""

import numpy as np
import pandas as pd
import pytest

from datasets.beats import HeartStates
from datasets.sources import Problem, SourceIndex
from systems.ecg_pcg import prepare as module
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources.beats_of_recording import PreparedRecording

NAMES = ["plain", "with, comma", 'with "quotes"', "Ö", "007"]


def recording(number):
    """Return a recording of as many beats as its number and one more, each of a second."""
    row: dict[str, object] = {
        **{"recording": NAMES[number], "database": "cohort", "session": f"s{number % 2}", "position": np.nan},
        **{"person": f"p{number}", "label": number % 2, "diagnosis": "", "site": "", "quality": 1},
        **{"ecg_length": 0 if number == 1 else 9, "pcg_length": 9},
    }
    start = np.arange(number + 1) + 0.1234567
    states = HeartStates(start, np.array(["S1"] * len(start))) if number != 2 else None
    return PreparedRecording(row, {}, {}, np.stack([start, start + 1], axis=1), states)


def written(folder):
    index = SourceIndex("cohort", folder, pd.DataFrame({"annotation": [""]}), files=[])
    writer = module.RecordingCache(index, PreparationSettings(beat_points=25))
    writer.identified = ("0" * 64, {})
    items = [*(recording(number) for number in range(len(NAMES))), Problem("x", "It is\nbroken.", "Mend it.")]
    counts = writer.write(folder, items)["counts"]
    return counts, {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.csv"))}


def test_counts_and_rows(tmp_path):
    counts, files = written(tmp_path)
    assert counts == {
        **{"recordings": 5, "beats": 15, "sessions": 2, "persons": 5},
        **{"abnormal_recordings": 2, "skipped": 1},
    }
    assert sorted(files) == ["events.csv", "recordings.csv", "samples.csv", "skipped.csv"]
    samples = pd.read_csv(tmp_path / "samples.csv", dtype={"recording": str})
    assert samples["sample"].tolist() == list(range(15))
    assert samples["recording"].tolist() == [name for n, name in enumerate(NAMES) for _ in range(n + 1)]
    assert samples["start"].tolist()[:3] == [0.12346, 0.12346, 1.12346]
    assert set(samples["heart_rate"]) == {60.0}
    assert samples["has_ecg"].tolist() == [1, 0, 0, *[1] * 12]
    events = pd.read_csv(tmp_path / "events.csv", dtype={"recording": str})
    assert events.groupby("recording").size().to_dict() == {NAMES[n]: n + 1 for n in (0, 1, 3, 4)}
    assert events["time"].iloc[0] == 0.1234567


@pytest.mark.parametrize("together", [1, 2, 4])
def test_pieces_are_the_same_files_as_the_whole(tmp_path, monkeypatch, together):
    (tmp_path / "whole").mkdir()
    (tmp_path / "pieces").mkdir()
    whole = written(tmp_path / "whole")
    monkeypatch.setattr(module, "_PIECE", together)
    assert written(tmp_path / "pieces") == whole
