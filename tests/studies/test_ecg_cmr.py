"""The study of ECG and cardiac MRI: what it runs in which order, and what its tables compare."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from studies.ecg_cmr import (
    PRIMARY,
    PairsStudySettings,
    axes_comparison,
    comparisons,
    waves,
    write_tables,
)
from systems.registry import TASKS

SETTINGS = PairsStudySettings(fractions=True)


def names(wave):
    return [part.name.removeprefix("ecg-cmr-").removesuffix("-seed0") for part in wave]


def test_parents_are_trained_before_their_children():
    done: set[str] = set()
    for wave in waves(SETTINGS, "cache"):
        for part in wave:
            words = list(part.train)
            parents = [words[at + 1] for at, word in enumerate(words) if word.startswith("--init-")]
            assert {parent.removeprefix("checkpoints/") for parent in parents} <= done, part.name
        done |= {part.name for part in wave}


def test_every_part_is_a_task_with_the_same_seed_and_cache():
    parts = [part for wave in waves(SETTINGS, "cache") for part in wave]
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        assert part.train[0] in TASKS
        words = " ".join(part.train)
        assert "--cache cache" in words and "--seed 0" in words
    shuffled = [part.name for part in parts if "--shuffle-pairs" in part.train]
    assert shuffled == ["ecg-cmr-contrast-shuffled-seed0"]


def test_arms_are_trained_alike_but_for_their_parent():
    parts = {
        name: part for wave in waves(SETTINGS, "cache") for name, part in zip(names(wave), wave, strict=True)
    }
    unwrap = []
    for arm in ("scratch-10", "pretrained-10", "aligned-10", "shuffled-10"):
        words = list(parts[arm].train)
        if "--init-ecg" in words:
            at = words.index("--init-ecg")
            del words[at : at + 2]
        unwrap.append(words)
    assert all(words == unwrap[0] for words in unwrap)


def test_the_long_axis_is_prepared_learned_and_compared_where_it_is_asked_for():
    plain = {part.name for wave in waves(SETTINGS, "cache") for part in wave}
    with_axes = waves(replace(SETTINGS, long_axis=True), "cache")
    added = [name for wave in with_axes for name in names(wave) if f"ecg-cmr-{name}-seed0" not in plain]
    assert added[:2] == ["cmr-mae-long", "contrast-axes"]
    assert {"aligned-axes", "aligned-axes-10"} <= set(added)
    parts = {part.name: part.train for wave in with_axes for part in wave}
    words = list(parts["ecg-cmr-contrast-axes-seed0"])
    short = list(parts["ecg-cmr-contrast-seed0"])
    more = ["--axis", "both", "--init-long-axis", "checkpoints/ecg-cmr-cmr-mae-long-seed0"]
    assert [word for word in words if word not in short] == more


def test_both_axes_are_compared_with_the_short_one_on_the_same_patients(tmp_path):
    """The short run finds nobody; of the other one the long axis finds all, both axes find half."""
    patients = [f"p{row:02d}" for row in range(40)]
    half_of, eye = np.arange(40) // 20, np.eye(40)
    nobody = eye[(np.arange(40) + 1) % 20 + 20 * half_of]
    half = np.where(half_of[:, None] == 0, 3 * nobody, eye)  # outweighs the long axis in half of them
    columns = {"contrast": {"cmr": nobody}, "contrast-axes": {"cmr": half, "long_axis": eye}}
    for run, images in columns.items():
        parts = {"ecg": eye, **images}
        table = pd.concat([pd.DataFrame(part).add_prefix(f"{name}_") for name, part in parts.items()], axis=1)
        (tmp_path / run).mkdir()
        table.assign(recording=patients, session=patients).to_csv(tmp_path / run / "predictions.csv")
    runs = {run: tmp_path / run for run in columns}
    table = axes_comparison(runs).set_index(["found_by", "rank"])
    assert table.loc[("long axis", 1), "difference"] == 1
    assert table.loc[("CMR", 1), "difference"] == 0.5
    assert table.loc[("both axes", 1), "difference"] == 0.5
    assert table.loc[("both axes", 1), "low"] > 0.3 and (table["recall_short_axis_alone"] == 0).all()
    assert axes_comparison({"contrast": tmp_path / "contrast"}).empty


def write_run(folder, predicted, truth, patients):
    folder.mkdir(parents=True)
    table = pd.DataFrame({"recording": patients, "session": patients, "ejection_fraction": predicted})
    table["true_ejection_fraction"] = truth
    table.to_csv(folder / "predictions.csv", index=False)
    rows = {"indicators": [{"indicator": "ejection_fraction"}]}
    (folder / "metrics.json").write_text(json.dumps(rows))


def test_the_declared_comparison_comes_first_and_is_not_corrected(tmp_path):
    random = np.random.default_rng(0)
    patients = [f"p{row}" for row in range(80)]
    truth = random.normal(60, 8, 80)
    for arm, noise in (("scratch", 20), ("aligned", 2), ("pretrained", 3)):
        found = truth + random.normal(0, noise, 80)
        write_run(tmp_path / "runs" / f"ecg-cmr-{arm}-10-seed0", found, truth, patients)
    settings = PairsStudySettings(results_dir=tmp_path)
    assert "ejection_fraction" in write_tables(settings)
    table = pd.read_csv(tmp_path / "comparisons.csv")
    first = table.iloc[0]
    assert (first["indicator"], first["fraction"], first["first"], first["second"]) == PRIMARY
    assert first["declared"] and np.isnan(first["p_holm"]) and first["low"] > 0
    assert len(table) == 3 and table["p_holm"][1:].notna().all()


def test_runs_on_other_patients_are_not_compared(tmp_path):
    truth = np.arange(10.0)
    for arm, start in (("scratch-10", 0), ("aligned-10", 5)):
        write_run(tmp_path / arm, truth, truth, [f"p{row + start}" for row in range(10)])
    with pytest.raises(UserError, match="were evaluated on different patients"):
        comparisons({name: tmp_path / name for name in ("scratch-10", "aligned-10")})


def test_nothing_done_is_said(tmp_path):
    assert "Nothing to tabulate" in write_tables(PairsStudySettings(results_dir=tmp_path))
