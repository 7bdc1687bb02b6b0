"""load_data.py from the command line: what is found, what is written, and what is said."""

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import evaluate
import training
from config import SourceSettings
from datasets.cache import Cache, _setting_words, describe_choice, find_cache, source_title
from datasets.sources import DataError, Problem
from load_data import main
from systems import registry
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources import download as download_module
from systems.ecg_pcg.sources.simulated import write_record, write_states

ROOT = Path(__file__).parents[1]
SIMULATION = ["--simulation.sessions", "4", "--simulation.persons", "2", "--simulation.recordings", "2"]
SIMULATION += ["--simulation.duration", "6"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Run each test in an empty folder that knows of no real recordings."""
    monkeypatch.delenv("PHYSIONET2016_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments, jobs="1"):
    return main([*(str(argument) for argument in arguments), "--jobs", jobs])


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


# From raw recordings to a cache ---------------------------------------------------------------------


def test_simulated_patients_end_to_end_with_nothing_but_defaults(workplace, capsys):
    path = run("--simulate", *SIMULATION)
    said = capsys.readouterr().out
    assert path.parent == Path("data/cache")
    assert (workplace / "data/raw/simulated/simulation.json").is_file()
    cache = find_cache(None, Path("data/cache"))
    assert cache.path == path
    assert cache.simulated
    assert cache.manifest["counts"]["recordings"] == 16
    assert "16 recordings kept" in said
    assert said.endswith("Next:  python training.py\n")


def test_the_first_word_may_name_the_task(simulated_raw):
    plain, named = (run(*task, "--raw-dir", simulated_raw) for task in ([], ["ecg-pcg"]))
    assert plain == named


def test_what_was_left_out_is_counted_by_reason(simulated_raw, simulated_cache, capsys):
    path = run("--raw-dir", simulated_raw)
    said = capsys.readouterr().out
    assert "30 recordings kept" in said
    assert "2 left out" in said
    assert re.search(r"^ +1  It has no ECG\.$", said, re.MULTILINE)
    assert Cache(path).identity == simulated_cache.identity


def test_the_same_command_again_computes_nothing(simulated_raw, monkeypatch):
    first = run("--raw-dir", simulated_raw)
    times = {file: file.stat().st_mtime_ns for file in files_below(first)}
    monkeypatch.setattr("systems.ecg_pcg.prepare.prepare_recording", None)
    assert run("--raw-dir", simulated_raw) == first
    assert {file: file.stat().st_mtime_ns for file in files_below(first)} == times


def test_options_reach_the_preparation_and_the_latest_is_remembered(simulated_raw):
    plain = run("--raw-dir", simulated_raw)
    path = run("--raw-dir", simulated_raw, "--onsets", "ecg", "--beat-points", "500", "--keep-low-quality")
    settings = PreparationSettings(onsets="ecg", beat_points=500, keep_low_quality=True)
    cache = Cache(path)
    assert path != plain
    assert cache.manifest["settings"] == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(settings).items()
    }
    assert cache.beats("ecg").shape[1] == 500
    assert set(cache.table("recordings")["beat_source"]) == {"ecg"}
    assert len(cache.table("recordings")) == 31
    assert find_cache(None, path.parent).path == path


def test_automatic_onsets_give_other_beats(simulated_raw):
    plain, automatic = (
        Cache(run("--raw-dir", simulated_raw, "--onsets", onsets)).table("samples")
        for onsets in ("hand-corrected", "springer")
    )
    assert set(plain["recording"]) == set(automatic["recording"])
    assert len(set(plain["start"]) & set(automatic["start"])) < 0.5 * len(plain)


def test_strict_stops_and_nothing_is_remembered(simulated_raw, workplace):
    with pytest.raises(DataError, match="stopped by --strict"):
        run("--raw-dir", simulated_raw, "--strict")
    assert files_below(workplace) == []


def test_warnings_about_the_tables_are_shown(simulated_raw, workplace, capsys):
    raw = shutil.copytree(simulated_raw, workplace / "raw")
    (raw / "annotations" / "Online_Appendix_training_set.csv").unlink()
    run("--raw-dir", raw)
    said = capsys.readouterr().out
    assert "annotations/Online_Appendi" in said
    assert "The appendix is absent" in said


# Where recordings are sought ------------------------------------------------------------------------


def test_without_recordings_it_says_where_it_looked_and_what_to_do(workplace):
    with pytest.raises(DataError) as caught:
        run()
    said = str(caught.value)
    assert "in: data/raw/challenge-2016 ($PHYSIONET2016_DIR is not set)" in said
    for remedy in ("--download", "--simulate", "--raw-dir PATH"):
        assert remedy in said
    assert files_below(workplace) == []


def test_a_named_folder_without_recordings_is_the_only_place_named(workplace):
    with pytest.raises(DataError, match=r"in: .*elsewhere \(does not exist\)\. Download"):
        run("--raw-dir", workplace / "elsewhere")


def test_the_environment_names_the_usual_place(simulated_raw, monkeypatch, capsys):
    monkeypatch.setenv("PHYSIONET2016_DIR", str(simulated_raw))
    run()
    assert f"32 recordings in {simulated_raw} (physionet2016)" in capsys.readouterr().out


def test_an_option_wins_over_the_environment(simulated_raw, workplace, monkeypatch):
    monkeypatch.setenv("PHYSIONET2016_DIR", str(simulated_raw))
    with pytest.raises(DataError, match="elsewhere"):
        run("--raw-dir", workplace / "elsewhere")


def test_a_set_may_be_named_instead_of_the_folder_above_it(simulated_raw, capsys):
    run("--raw-dir", simulated_raw / "training-a", "--dry-run")
    assert f"32 recordings in {simulated_raw} " in capsys.readouterr().out


def test_a_misspelt_folder_beside_recordings_is_not_read_from_above(simulated_raw):
    with pytest.raises(DataError, match=r"No recordings found.*misspelt \(does not exist\)"):
        run("--raw-dir", simulated_raw / "misspelt", "--dry-run")


# Downloads and simulations --------------------------------------------------------------------------


def test_download_fetches_the_sets_first_and_tells_what_is_absent(simulated_raw, monkeypatch, capsys):
    asked = []

    def download(folder, sets):
        asked.append((folder, tuple(sets)))
        shutil.copytree(simulated_raw, folder)
        return [Problem("training-a/a9999.wav", "The server has no such file.", "Try again later.")]

    monkeypatch.setattr(download_module, "download_physionet2016", download)
    path = run("--download")
    assert asked == [(Path("data/raw/challenge-2016"), ("a",))]
    assert "The server has no such file." in capsys.readouterr().out
    assert Cache(path).manifest["counts"]["recordings"] == 30
    assert run() == path  # the default place is found without any option


def test_download_and_simulate_exclude_each_other(workplace):
    for more in ([], ["--dry-run"]):
        with pytest.raises(DataError, match="--simulate and --download exclude each other"):
            run("--simulate", "--download", *more)
    assert files_below(workplace) == []


def test_a_simulation_that_cannot_be_is_reported_as_an_error_of_the_user(workplace):
    with pytest.raises(DataError, match=r"duration is 2\.0, but must be 6 seconds or more"):
        run("--simulate", "--simulation.duration", "2")
    assert files_below(workplace) == []


# Dry runs -------------------------------------------------------------------------------------------


def test_a_dry_run_tells_size_and_time_and_writes_nothing(simulated_raw, workplace, capsys):
    before = files_below(simulated_raw)
    run("--raw-dir", simulated_raw, "--dry-run")
    said = capsys.readouterr().out
    assert re.search(
        r"Would read \d+ MB and write about \d+ MB to data/cache/simulated-physionet2016-[0-9a-f]{8}", said
    )
    assert said.endswith("Nothing was written.\n")
    assert list(workplace.iterdir()) == []
    assert files_below(simulated_raw) == before


def test_a_dry_run_names_the_folder_that_is_then_written(simulated_raw, capsys):
    run("--raw-dir", simulated_raw, "--dry-run")
    planned = re.search(r"data/cache/\S+", capsys.readouterr().out)
    path = run("--raw-dir", simulated_raw)
    assert planned is not None
    assert planned[0].rstrip(",") == path.as_posix()
    run("--raw-dir", simulated_raw, "--dry-run")
    assert f"{path} is there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--simulate", "Would simulate 16 recordings of 6 s into data/raw/simulated"),
        ("--download", "Would fetch what is absent of training-a into data/raw/challenge-2016"),
    ],
)
def test_a_dry_run_neither_simulates_nor_downloads(workplace, capsys, monkeypatch, option, words):
    monkeypatch.setattr(download_module, "download_physionet2016", None)
    run(option, *SIMULATION, "--dry-run")
    assert words in capsys.readouterr().out
    assert list(workplace.iterdir()) == []


# The command line -----------------------------------------------------------------------------------


def test_an_unknown_option_ends_with_a_suggestion(capsys):
    with pytest.raises(SystemExit) as caught:
        run("--simulat")
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert "--simulat" in said.err
    assert re.search(r"Perhaps you meant:\s+.*--simulate", said.err)


def test_an_unknown_task_is_refused_with_the_list():
    with pytest.raises(Exception, match=r"no task 'ecg-pgc'\. Perhaps you meant ecg-pcg"):
        run("ecg-pgc")


def test_help_shows_the_manual_of_the_script(capsys):
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "python load_data.py --download" in said
    assert "--keep-low-quality" in said


@pytest.mark.parametrize("task", registry.TASKS)
def test_every_task_can_be_prepared(task):
    assert issubclass(registry.load_data_settings(task), SourceSettings)
    assert callable(registry.module_of(task, "prepare").prepare)


def test_it_starts_without_what_learns_and_draws():
    """Seconds, which every process that prepares would take again."""
    heavy = "{'torch', 'sklearn', 'matplotlib', 'monai', 'scipy.signal', 'scipy.stats'}"
    code = "import sys, load_data; from systems.registry import module_of; module_of('ecg-pcg', 'prepare'); "
    code += f"print(sorted({heavy} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


# One's own cohort -----------------------------------------------------------------------------------


@pytest.fixture
def cohort(workplace):
    """Return a cohort of four records with sound and two leads, one of them without a label."""
    root = workplace / "cohort"
    root.mkdir()
    noise = np.random.default_rng(0).integers(-1000, 1000, 8000).astype(np.int16)
    for name in ("p1", "p2", "p3", "p4"):
        write_record(root, name, label=0, pcg=noise, ecg=noise)
        (root / f"{name}.v5").write_bytes((noise // 2).astype("<i2").tobytes())
        header = root / f"{name}.hea"
        lines = header.read_text().replace(f"{name} 2 ", f"{name} 3 ").splitlines()
        lines.insert(3, f"{name}.v5 16 1000/mV 16 0 0 0 0 V5")
        header.write_text("\n".join(lines) + "\n")
        write_states(root / f"{name}_StateAns.mat", "state_ans", [(1001, "S1"), (3001, "S1")])
    rows = ["recording;person;label", "p1;Ö;normal", "p2;B;abnormal", "p3;C;abnormal"]
    (root / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def test_ones_own_cohort_is_recognized_and_its_problems_are_shown(cohort, capsys):
    cache = Cache(run("--raw-dir", cohort))
    said = capsys.readouterr().out
    assert "The record has no row in labels.csv." in said
    assert "3 recordings in" in said
    assert cache.path.name.startswith("cohort-")
    assert cache.table("recordings")["session"].tolist() == ["Ö", "B", "C"]
    assert cache.table("skipped")["recording"].tolist() == ["p4"]
    assert not cache.simulated


@pytest.mark.parametrize(("label", "other"), [("normal", "abnormal"), ("abnormal", "normal")])
def test_recordings_of_one_label_are_not_sent_to_training(cohort, capsys, label, other):
    table = cohort / "labels.csv"
    table.write_text(re.sub(rf"\b{other}\b", label, table.read_text(encoding="utf-8")), encoding="utf-8")
    cache = run("--raw-dir", cohort)
    said = capsys.readouterr().out
    assert f"All are {label}: a model can be tested on them, not trained.\n" in said
    assert said.endswith(f"Next:  python evaluate.py --checkpoint checkpoints/<run> --cache {cache}\n")


@pytest.mark.parametrize(
    ("header", "persons"),
    [("person", "3 persons"), ("patient", "persons not named"), ("session", "persons not named")],
)
def test_persons_are_counted_as_far_as_the_table_names_them(cohort, capsys, header, persons):
    table = cohort / "labels.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("person", header), encoding="utf-8")
    run("--raw-dir", cohort)
    assert f"3 sessions, {persons}; " in capsys.readouterr().out


@pytest.mark.parametrize("saved_as", ["labels.txt", "labels.xlsx"])
def test_recordings_without_a_table_of_labels_are_answered_with_what_it_holds(cohort, saved_as):
    (cohort / "labels.csv").rename(cohort / saved_as)
    with pytest.raises(DataError, match=r"write labels\.csv .* recording, label .* person"):
        run("--raw-dir", cohort)


def test_another_channel_is_another_cache(cohort):
    first, second = (Cache(run("--raw-dir", cohort, *option)) for option in ([], ["--ecg-channel", "V5"]))
    assert first.path != second.path
    np.testing.assert_allclose(second.waveforms("ecg"), first.waveforms("ecg") / 2, atol=0.0006)


def test_a_layout_may_be_insisted_on(cohort):
    with pytest.raises(DataError, match="no folder training-a"):
        run("--raw-dir", cohort, "--source", "physionet2016")


# Real recordings ------------------------------------------------------------------------------------


def test_training_a_as_published(real_data, workplace, capsys):
    """388 recordings of 58 sessions, 14,031 beats; 21 left out: the figures of docs/data.md."""
    cache = Cache(run("--raw-dir", real_data, "--beat-points", "100"))
    said = capsys.readouterr().out
    assert (
        "388 recordings kept (116 normal, 272 abnormal), 14031 beats, 58 sessions, about 122 persons" in said
    )
    reasons = cache.table("skipped").groupby("reason")["recording"].agg(list)
    assert len(reasons["The reference table gives its signal quality as 0."]) == 17
    assert reasons["It has no ECG."] == ["a0041", "a0117", "a0220", "a0233"]
    assert len(cache.table("skipped")) == 21
    samples = cache.table("samples")
    assert samples.groupby("label").size().to_dict() == {0: 4301, 1: 9730}
    recordings = cache.table("recordings")
    assert (recordings["beat_source"] == "annotation").all()
    assert not recordings[["ecg_missing", "pcg_missing"]].any(axis=None)  # clipping, and no gap
    assert (recordings["ecg_saturated"] + recordings["pcg_saturated"] > 0).sum() == 48
    assert np.isfinite(cache.beats("ecg")).all()
    assert np.isfinite(cache.beats("pcg")).all()


# Which data -----------------------------------------------------------------------------------------


def test_simulated_data_are_named_so_first_of_all(simulated_raw, capsys):
    path = run("--raw-dir", simulated_raw)
    said = capsys.readouterr().out
    assert said.startswith("SIMULATED patients: ")
    assert re.fullmatch(r"simulated-physionet2016-[0-9a-f]{8}", path.name)
    assert Cache(path).title == "30 recordings of SIMULATED patients in the layout of physionet2016"
    assert Cache(path).manifest["source"] == "physionet2016", "by which recordings are read alike"


@pytest.mark.parametrize(
    ("source", "simulated", "title"),
    [
        ("physionet2016", False, "PhysioNet/CinC Challenge 2016"),
        ("physionet2016", True, "SIMULATED patients in the layout of physionet2016"),
        ("patients", True, "SIMULATED patients"),
        ("pairs", False, "your own pairs of ECG and cine"),
        ("simulated-pairs", True, "SIMULATED patients"),
        ("another", False, "another"),
    ],
)
def test_sources_in_words(source, simulated, title):
    assert source_title(source, simulated) == title


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--onsets", "springer"], "springer"),
        (["--onsets", "ecg", "--beat-points", "300"], "ecg-beat-points-300"),
        (["--keep-low-quality", "--pcg-band", "20", "300.5"], "pcg-band-20-300.5-keep-low-quality"),
        (
            ["--onsets", "ecg", "--beat-points", "300", "--bandpass", "--keep-low-quality"],
            "ecg-beat-points-300-bandpass-and-more",
        ),
    ],
)
def test_the_name_of_a_cache_says_what_is_not_as_usual(simulated_raw, options, named):
    path = run("--raw-dir", simulated_raw, *options)
    assert re.fullmatch(rf"simulated-physionet2016-{named}-[0-9a-f]{{8}}", path.name)
    assert path.name.endswith(Cache(path).identity[:8])


def test_no_text_of_a_user_leaves_the_folder(tmp_path):
    assert _setting_words("text", "../../etc/x y ") == "text-etc-x-y"
    assert _setting_words("sets", ("a", "b")) == "sets-a-b"
    assert _setting_words("covariates", False) == "no-covariates"


def test_a_cache_of_an_older_name_is_found_and_not_computed_again(simulated_raw, capsys):
    first = run("--raw-dir", simulated_raw)
    assert f"Cache: {first} (computed in " in capsys.readouterr().out
    older = first.rename(first.with_name(first.name.removeprefix("simulated-")))
    assert run("--raw-dir", simulated_raw) == older
    said = capsys.readouterr().out
    assert f"Cache: {older} (was there already: nothing was computed)" in said
    assert [path.name for path in first.parent.iterdir() if path.is_dir()] == [older.name]


def test_what_comes_next_names_a_folder_that_is_not_the_usual_one(simulated_raw, capsys):
    run("--raw-dir", simulated_raw, "--cache-dir", "my caches")
    assert capsys.readouterr().out.endswith("Next:  python training.py --cache-dir 'my caches'\n")


def test_of_several_caches_it_is_said_which_is_taken_and_how_to_choose(simulated_raw, capsys):
    first = run("--raw-dir", simulated_raw)
    assert describe_choice(Cache(first), first.parent) == ""
    second = run("--raw-dir", simulated_raw, "--onsets", "ecg")
    said = describe_choice(find_cache(None, first.parent), first.parent)
    assert said.startswith(f"{second.name} was prepared last and is taken; 1 other cache lies in data/cache")
    assert "--cache PATH chooses, --list lists them" in said
    capsys.readouterr()
    assert run("--list") == Path("data/cache")
    listed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in listed[1:]] == sorted(map(str, (first, second)))
    assert [line.endswith("; prepared last for ecg-pcg") for line in listed[1:]] == [
        path == second for path in sorted((first, second))
    ]
    for script in (training, evaluate):
        script.main(["--list"])
        said = capsys.readouterr().out
        assert str(second) in said and "No runs in checkpoints" in said


# What stands alone ----------------------------------------------------------------------------------


def test_a_folder_may_stand_alone(simulated_raw, workplace):
    named = run("--raw-dir", simulated_raw)
    assert run(simulated_raw) == named
    assert run("ecg-pcg", simulated_raw) == named
    with pytest.raises(DataError, match="nowhere"):
        run(workplace / "nowhere")
    with pytest.raises(DataError, match="is no cache"):
        training.main([str(simulated_raw), "--device", "cpu"])


def ptbxl(folder):
    folder.mkdir()
    (folder / "ptbxl_database.csv").write_text("ecg_id\n")
    return folder


def test_a_folder_given_to_the_wrong_task_is_answered_with_the_right_one(simulated_raw, workplace):
    folder = ptbxl(workplace / "ptb xl")
    said = r"It looks like PTB-XL, which task ecg-multimodal takes: python load_data.py ecg-multimodal "
    with pytest.raises(DataError, match=said + r"--raw-dir '.*ptb xl'"):
        run(folder)
    (workplace / "acdc" / "training" / "patient001").mkdir(parents=True)
    with pytest.raises(DataError, match=r"looks like ACDC, which task cmr-mae takes"):
        run(workplace / "acdc")
    with pytest.raises(DataError, match=r"The folder above it looks like PTB-XL.* --raw-dir '.*ptb xl'"):
        run("ecg-multimodal", folder / "records500")
    with pytest.raises(DataError, match=r"csv is a file: predict\.py takes single recordings"):
        run(folder / "ptbxl_database.csv")
    wrong = r"PhysioNet/CinC Challenge 2016, which task ecg-pcg takes: python load_data.py --raw-dir "
    for task in ("ecg-multimodal", "ecg-phenotypes"):
        with pytest.raises(DataError, match=wrong):
            run(task, simulated_raw)


def test_an_old_name_of_an_option_is_still_accepted(capsys):
    for option in ("--patients", "--simulation.patients", "--patients="):
        words = [option + "3"] if option.endswith("=") else [option, "3"]
        run("ecg-multimodal", "--simulate", *words, "--dry-run")
        assert "Would simulate 3 patients" in capsys.readouterr().out
