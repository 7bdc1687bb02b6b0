"""The measurement of every step: how a cohort is multiplied, and the rows of the table."""

from pathlib import Path

from simulation.settings import SimulationSettings
from studies.speed import scale
from studies.speed.preparation import Ran
from systems.ecg_pcg.sources.physionet2016 import index_physionet2016
from systems.ecg_pcg.sources.simulated import write_cohort


def test_copies_are_recordings_of_other_sessions_with_the_same_content(tmp_path):
    cohort = SimulationSettings(sessions=4, persons=1, recordings=2, duration=6.0)
    raw = write_cohort(tmp_path / "raw", cohort)
    scale.multiply(raw, 3, cohort.sessions)
    index = index_physionet2016(raw, ["a"])
    found = index.recordings.set_index("recording")
    assert len(found) == found.index.nunique() == 24
    assert (found.groupby("session").size() == 2).all()
    assert (found["annotation"] != "").all()
    assert not index.problems
    for name, copy in zip(found.index[::3], found.index[1::3], strict=True):
        assert copy.startswith(name)
        assert found["label"][name] == found["label"][copy]
        files = [raw / "training-a" / f"{stem}.wav" for stem in (name, copy)]
        assert files[0].samefile(files[1])
        assert copy in files[1].with_suffix(".hea").read_text(encoding="utf-8")


def test_every_step_and_file_has_its_rows(monkeypatch):
    calls = []

    def run(script: str, *options: str, folder: Path) -> Ran:
        calls.append((script, (folder / "raw/training-a").is_dir()))
        for path in scale._FILES.values():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(bytes(3_000_000))
        return Ran("", 5.0, 2.0, 7_000_000)

    monkeypatch.setattr(scale, "run_script", run)
    monkeypatch.setattr(scale, "SIMULATED", 8)
    rows = scale.measure((4, 16))
    assert calls == [(script, True) for script in ("load_data.py", "training.py", "evaluate.py")] * 2
    values = {(row["case"], row["quantity"]): row["value"] for row in rows}
    assert len(values) == len(rows) == 2 * (3 * 2 + 3)
    assert values["16 recordings, training.py", "CPU seconds"] == 2
    assert values["16 recordings, training.py", "peak MB"] == 7
    assert values["4 recordings, report.html", "size"] == 3
