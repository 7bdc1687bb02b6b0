"""load_data.py of the ECG-CMR tasks from the command line: one cache for all, and what goes wrong."""

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import wfdb

from common.errors import UserError
from datasets.cache import Cache, find_cache
from datasets.ecg import LEADS
from datasets.sources import DataError
from load_data import main
from simulation.heart_population import draw_heart
from systems.ecg_cmr.prepare import NEEDS
from systems.ecg_cmr.samples import read_pairs
from systems.ecg_cmr.sources.simulated import write_pairs
from systems.ecg_cmr.stage import patch_length

SIMULATED = ["--simulate", "--patients", "6"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Run each test in an empty folder that knows of no real recordings."""
    monkeypatch.delenv("PTBXL_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return seven simulated patients as files; not to be changed."""
    return write_pairs(tmp_path_factory.mktemp("raw") / "pairs", 7, seed=3)


@pytest.fixture
def root(written, tmp_path):
    return shutil.copytree(written, tmp_path / "raw")


@pytest.fixture
def ptbxl(tmp_path):
    """Return three records of two patients in the layout of PTB-XL."""
    folder = tmp_path / "ptb-xl"
    folder.mkdir()
    (folder / "scp_statements.csv").write_text(",diagnostic_class\nNORM,NORM\nIMI,MI\n")
    head = "ecg_id,patient_id,age,sex,height,weight,scp_codes,strat_fold,filename_lr,filename_hr"
    rows = [f'{n},{n // 2},50,0,,,{{"IMI": 100.0}},1,r{n}_lr,r{n}_hr' for n in (1, 2, 3)]
    quoted = [row.replace('{"IMI": 100.0}', "\"{'IMI': 100.0}\"") for row in rows]
    (folder / "ptbxl_database.csv").write_text("\n".join([head, *quoted]) + "\n")
    for number in (1, 2, 3):
        ecg = np.random.default_rng(number).normal(0, 0.3, (5000, 12))
        more = {"fmt": ["16"] * 12, "write_dir": str(folder), "sig_name": list(LEADS)}
        wfdb.wrsamp(f"r{number}_hr", fs=500, units=["mV"] * 12, p_signal=ecg, **more)
    return folder


def run(task, *arguments):
    return main([task, *(str(argument) for argument in arguments), "--jobs", "1"])


def latest(task):
    return find_cache(None, Path("data/cache"), task=task).path


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


# One cache for all stages ---------------------------------------------------------------------------


def test_simulated_patients_serve_every_stage_with_nothing_but_defaults(workplace, capsys):
    path = run("ecg-mae", *SIMULATED)
    said = capsys.readouterr().out
    assert path.parent == Path("data/cache")
    assert {latest(task) for task in NEEDS} == {path}
    assert not (workplace / "data/raw").exists()  # drawn straight into the cache
    assert "6 with ECG, 6 with cine, 6 with both; 0 left out" in said
    assert "ejection_fraction 0.30" in said
    assert said.endswith("Next:  python training.py ecg-mae\n")
    assert run("ecg-to-cmr", *SIMULATED) == path
    assert capsys.readouterr().out.endswith("Next:  python training.py cine-autoencoder\n"), "it needs one"


def test_stages_read_the_cache(workplace):
    pairs = read_pairs(Cache(run("ecg-mae", *SIMULATED)), ("ecg", "cmr"), torch.device("cpu"))
    inputs = pairs.describe_inputs()
    assert {name: inputs[name] for name in ("leads", "samples", "frames", "size")} == {
        **{"leads": 12, "samples": 2500, "frames": 16, "size": 64}
    }
    assert [12 * 2500 // patch_length(seconds, inputs) for seconds in (0.2, 0.4)] == [600, 300]
    batch = pairs.batch(torch.tensor([4, 1]))
    assert batch["ecg"].abs().amax(dim=(1, 2)).min() > 0.2
    assert (batch["cmr"].amin(), batch["cmr"].amax()) == (0, 1)
    hearts = [draw_heart(0, number) for number in (4, 1)]
    expected = [list(heart.indicators().values()) for heart in hearts]
    torch.testing.assert_close(batch["indicators"], torch.tensor(expected, dtype=torch.float32))


def test_ecgs_alone_become_the_newest_of_the_task_they_are_for(ptbxl, workplace):
    pairs = run("ecg-to-cmr", *SIMULATED)
    path = run("ecg-mae", "--raw-dir", ptbxl)
    assert path.name.startswith("ptbxl-ecg-")
    assert latest("ecg-mae") == path
    assert {latest(task) for task in NEEDS if task != "ecg-mae"} == {pairs}
    samples = read_pairs(Cache(path), ("ecg",), torch.device("cpu"))
    assert len(samples) == 3
    assert samples.ecg.shape[1:] == (12, 2500)
    assert samples.table["session"].tolist() == ["ptbxl-0", "ptbxl-1", "ptbxl-1"]


def test_what_a_task_does_not_need_takes_no_memory(root):
    (root / "ecg/v00002.hea").unlink()
    cache = Cache(run("ecg-mae", "--raw-dir", root))
    device = torch.device("cpu")
    both, ecgs = (read_pairs(cache, needs, device) for needs in (("ecg", "cmr"), ("ecg",)))
    assert (len(both), len(ecgs)) == (6, 6)
    torch.testing.assert_close(both.ecg, ecgs.ecg)
    assert ecgs.describe_inputs() == both.describe_inputs()
    assert ecgs.cmr.untyped_storage().nbytes() == 1
    batch = ecgs.batch(torch.tensor([0, 5]))
    assert batch["cmr"].shape == (2, 16, 64, 64)
    assert not batch["cmr"].any()
    cines = read_pairs(cache, ("cmr",), device)
    assert len(cines) == 7
    assert cines.ecg.untyped_storage().nbytes() == 4
    torch.testing.assert_close(cines.cmr[[0, 1, 3, 4, 5, 6]], both.cmr)


def test_cines_alone_are_read_from_acdc(workplace, capsys):
    folder = workplace / "acdc" / "training" / "patient001"
    folder.mkdir(parents=True)
    frames = np.random.default_rng(0).integers(1, 500, (20, 90, 100))
    image = nibabel.Nifti1Image(frames.transpose(2, 1, 0)[:, :, None].astype(np.int16), np.eye(4))
    nibabel.save(image, folder / "patient001_4d.nii.gz")
    (folder / "Info.cfg").write_text("ED: 1\nES: 9\nGroup: DCM\nHeight: 170\nWeight: 70\n")
    path = run("cmr-mae", "--raw-dir", workplace / "acdc")
    said = capsys.readouterr().out
    assert path.name.startswith("acdc-")
    assert "0 with ECG, 1 with cine" in said
    assert "no patient001_frame01_gt.nii.gz. It has no volumes." in re.sub(r"\s+", " ", said)
    samples = read_pairs(Cache(path), ("cmr",), torch.device("cpu"))
    assert samples.targets["diseases"].tolist() == [[0, 1, 0, 0]]


@pytest.mark.parametrize("task", ["cmr-mae", "ecg-cmr-contrast", "ecg-to-cmr"])
def test_data_that_lack_what_a_task_learns_from_are_refused(ptbxl, workplace, task):
    with pytest.raises(DataError, match=rf"has .*a cine, which {task} learns from"):
        run(task, "--raw-dir", ptbxl)
    assert not (workplace / "data").exists()


# Files ----------------------------------------------------------------------------------------------


def test_simulated_patients_can_be_written_as_ones_own(workplace, capsys):
    """The files give the heart that is drawn straight into the cache, and are written once."""
    options = ["--simulate", "--patients", "2", "--raw-dir", "mine"]
    path = run("ecg-cmr-contrast", *options)
    times = {file: file.stat().st_mtime_ns for file in files_below(Path("mine"))}
    assert path.name.startswith("simulated-pairs-")
    assert (workplace / "mine/pairs.csv").is_file()
    assert run("ecg-cmr-contrast", *options) == path
    assert {file: file.stat().st_mtime_ns for file in files_below(Path("mine"))} == times
    drawn = Cache(run("ecg-mae", "--simulate", "--patients", "2"))
    for name in ("ejection_fraction", "disease_dilated", "age"):
        values = [cache.table("targets")[name] for cache in (Cache(path), drawn)]
        np.testing.assert_allclose(values[0], values[1], rtol=1e-4)
    with pytest.raises(DataError, match="simulated with other settings"):
        run("ecg-mae", *options[:2], "3", *options[3:])


def test_options_reach_the_preparation(root):
    options = ["--ecg-rate", "100", "--seconds", "5", "--frames", "8", "--size", "32", "--long-axis"]
    cache = Cache(run("ecg-mae", "--raw-dir", root, *options))
    assert cache.array("ecg").shape == (7, 12, 500)
    assert cache.array("cmr").shape == cache.array("long_axis").shape == (7, 8, 32, 32)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--simulate", "--patients", "0"], "--simulation.patients must be 1 or more, and is 0"),
        (["--simulate", "--size", "4"], "too small"),
        (["--simulate", "--check"], "leave --simulate away"),
        (["--raw-dir", "nowhere"], r"No patients found.* in: nowhere \(does not exist\)\. Name the folder"),
        ([], r"in: data/raw/pairs, data/raw/ptb-xl \(\$PTBXL_DIR is not set\).*ecg-mae --simulate"),
    ],
)
def test_what_cannot_be_done_is_an_error_of_the_user(workplace, options, sentence):
    with pytest.raises(UserError, match=sentence):
        run("ecg-mae", *options)
    assert files_below(workplace) == []


@pytest.mark.parametrize("given", [["--simulate", "--patients", "9"], ["--raw-dir", "raw"]])
def test_a_dry_run_names_the_folder_that_is_then_written(root, workplace, capsys, given):
    before = files_below(workplace)
    run("ecg-mae", *given, "--dry-run")
    said = capsys.readouterr().out
    assert re.search(r"Would write about \d+ MB to \S+, in about \d+ s .*Nothing was written\.\n$", said)
    assert files_below(workplace) == before
    planned = re.search(r"data/cache/[^\s,]+", said)
    assert planned is not None
    assert run("ecg-mae", *given).as_posix() == planned[0]
    run("ecg-mae", *given, "--dry-run")
    assert "is there already: nothing would be computed" in capsys.readouterr().out


# Bad inputs -----------------------------------------------------------------------------------------


def rewrite(path, change):
    """Save a NIfTI again after a function has changed image, of shape (width, height, 1, frames)."""
    image: Any = nibabel.load(path)
    data, affine, zooms = change(np.asarray(image.dataobj), image.affine.copy(), image.header.get_zooms())
    changed = nibabel.Nifti1Image(data, affine)
    changed.header.set_zooms(zooms)
    nibabel.save(changed, path)


def with_nan(data, affine, zooms):
    holed = data.astype(np.float32)
    holed[30, 30, 0, 2] = np.nan
    return holed, affine, zooms


def turned(data, affine, zooms):
    """Store the same picture with rows first and both axes mirrored."""
    affine[:3, 3] += affine[:3, 0] * (data.shape[0] - 1) + affine[:3, 1] * (data.shape[1] - 1)
    affine[:3, :2] = -affine[:3, [1, 0]]
    return np.ascontiguousarray(data[::-1, ::-1].swapaxes(0, 1)), affine, zooms


def finer(data, affine, zooms):
    """Store each pixel four times, at half the size, the first axis coarser than it was."""
    affine[:3, 1] /= 2
    affine[:3, 3] -= affine[:3, 1] / 2
    return np.repeat(data, 2, axis=1), affine, (zooms[0], zooms[1] / 2, *zooms[2:])


def fewer_frames(data, affine, zooms):
    return data[..., ::3], affine, zooms


def test_damaged_pairs_are_named_and_skipped_and_unusual_ones_are_used(root, capsys):
    """Everything at once: what is faulty is in skipped.csv by name, and the rest looks as it should."""
    clean = Cache(run("ecg-cmr-contrast", "--raw-dir", root))
    capsys.readouterr()
    cines = [root / f"cmr/v0000{number}_sa.nii.gz" for number in range(7)]
    rewrite(cines[0], with_nan)
    cines[1].write_bytes(cines[1].read_bytes()[:2000])
    (root / "ecg/v00002.hea").unlink()
    rewrite(cines[3], turned)
    rewrite(cines[4], finer)
    rewrite(cines[5], fewer_frames)
    with (root / "pairs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows[6]["ecg"] = ""
    with (root / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

    cache = Cache(run("ecg-cmr-contrast", "--raw-dir", root))
    reasons = cache.table("skipped").set_index("recording")["reason"].to_dict()
    assert set(reasons) == {"v00000", "v00001", "v00002", "v00006"}
    assert "v00000_sa.nii.gz holds 1 values that are no numbers" in reasons["v00000"]
    assert "v00001_sa.nii.gz cannot be read: it is damaged or cut short" in reasons["v00001"]
    assert reasons["v00002"] == "The ECG 'ecg/v00002.hea' does not exist. It is used without ECG."
    assert reasons["v00006"] == "It has no ECG. It is used without ECG."
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    for name in reasons:
        assert name in said
    assert "5 with ECG, 5 with cine, 3 with both; 4 left out" in said
    reported = cache.manifest["warnings"]
    assert any(text.startswith("v00004") and "not square" in text for text in reported)
    assert any(text.startswith("v00005") and "8 frames, which is unusual" in text for text in reported)

    pairs = read_pairs(cache, ("ecg", "cmr"), torch.device("cpu"))
    assert pairs.table["recording"].tolist() == ["v00003", "v00004", "v00005"]
    difference = np.abs(np.asarray(cache.array("cmr"), float) - clean.array("cmr")).mean(axis=(1, 2, 3))
    assert difference[3] < 0.5  # of 255; turned back as it was
    assert difference[[4, 5]].max() < 8  # resampled in space, in time
    assert difference[[2, 6]].max() == 0
    apart = np.abs(np.asarray(clean.array("cmr")[3], float) - clean.array("cmr")[4]).mean()
    assert apart > 25  # another patient
    with pytest.raises(DataError, match=r"v00002: .*stopped by --strict"):
        run("ecg-cmr-contrast", "--raw-dir", root, "--strict")

    before = files_below(Path())
    run("ecg-cmr-contrast", "--raw-dir", root, "--check")
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    for name in ("v00000", "v00001", "v00002", "v00004", "v00005", "v00006"):
        assert name in said
    assert f"7 recordings in {root} (pairs): 3 faults and 3 warnings. Nothing was written." in said
    assert files_below(Path()) == before


def test_the_plain_command_names_what_is_doubtful_about_each_ecg_and_cine(root, workplace, capsys):
    def ecg(number):
        samples = wfdb.rdrecord(str(root / f"ecg/v0000{number}")).p_signal.T
        return samples, root / f"ecg/v0000{number}.npy"

    order = [0, 1, *range(6, 12), *range(2, 6)]
    for number, change in (
        (0, lambda x: x / 1000),
        (1, lambda x: 1000 * x[order]),
        (2, lambda x: x[order]),
        (3, lambda x: np.where(np.arange(5000) < 900 * (np.arange(12)[:, None] == 7), np.nan, x)),
        (4, lambda x: x.T),
    ):
        samples, path = ecg(number)
        np.save(path, change(samples))
    path = root / "cmr/v00006_sa.nii.gz"
    image: Any = nibabel.load(path)
    image.header["xyzt_units"] = 5
    nibabel.save(image, path)
    table = (root / "pairs.csv").read_text().splitlines()
    table[0] += ",ecg_rate"
    for number in range(7):
        if number < 5:
            table[number + 1] = table[number + 1].replace(".hea", ".npy")
        table[number + 1] += ",500"
    (root / "pairs.csv").write_text("\n".join(table) + "\n")
    cache = Cache(run("cmr-mae", "--raw-dir", root))
    assert cache.table("samples")["has_ecg"].tolist() == [0, 0, 1, 1, 0, 1, 1]
    assert np.asarray(cache.array("lead_present")[3]).tolist() == [name != "V2" for name in LEADS]
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    reasons = cache.table("skipped").set_index("recording")["reason"]
    assert "seem to be volts" in reasons["v00000"]
    assert "not in millivolts" in reasons["v00001"]
    assert "store (leads, samples)" in reasons["v00004"]
    assert "3 warnings about what is used; all are in" in text
    for words in (
        "v00002: ECG: Lead II is not the sum of I and III",
        "They fit each other in the order I, II, V1, V2, V3, V4, V5, V6, III, aVR, aVL, aVF.",
        "v00003: ECG: More than 10% of V2 is missing (NaN)",
        "v00006: Cine: Its header states units that are not defined (code 5)",
    ):
        assert words in text


def test_the_example_of_the_documentation_is_read_as_it_says(root, workplace):
    text = (Path(__file__).parents[3] / "docs/data.md").read_text(encoding="utf-8")
    table = re.search(r"^patient,ecg,.*?(?=^```)", text, re.MULTILINE | re.DOTALL)
    assert table is not None
    mine = workplace / "mine"
    for folder in ("ecg", "cmr"):
        (mine / folder).mkdir(parents=True)
    (mine / "pairs.csv").write_text(table[0], encoding="utf-8")
    for number, name in ((1, "p001"), (3, "p003")):
        shutil.copy(root / f"ecg/v0000{number}.dat", mine / f"ecg/{name}.dat")
        header = (root / f"ecg/v0000{number}.hea").read_text().replace(f"v0000{number}", name)
        (mine / f"ecg/{name}.hea").write_text(header)
    shutil.copy(root / "cmr/v00001_sa.nii.gz", mine / "cmr/p001_sa.nii.gz")
    np.save(mine / "ecg/p002.npy", np.random.default_rng(0).normal(0, 0.3, (12, 5000)))
    np.save(mine / "cmr/p002_sa.npy", np.random.default_rng(0).uniform(0, 9, (25, 90, 80)))
    cache = Cache(run("ecg-phenotypes", "--raw-dir", mine))
    assert cache.manifest["targets"] == {
        "indicators": ["ejection_fraction", "lv_edv"],
        "diseases": ["disease_dcm"],
        "covariates": ["age", "sex", "height", "weight"],
        "classes": {},
        "others": [],
    }
    targets = cache.table("targets", missing=("",)).drop(columns="recording").to_numpy()
    missing = np.nan
    expected = [[34, 228, 1, 61, 0, 178, 84], [missing, 151, 0, 47, 1, 165, missing]]
    expected += [[58, missing, 0, 70, 0, missing, missing]]
    np.testing.assert_array_equal(targets, expected)
    assert cache.table("samples")["has_cmr"].tolist() == [1, 1, 0]
    assert cache.table("samples")["has_ecg"].tolist() == [1, 1, 1]
    assert cache.table("skipped")["recording"].tolist() == ["p003"]


def test_help_names_every_source(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["ecg-mae", "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for words in ("pairs.csv", "ACDC", "PTB-XL", "--simulation.patients", "--long-axis"):
        assert words in said
