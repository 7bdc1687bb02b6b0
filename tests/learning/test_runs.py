"""The folder of a run: what may be trained into it, what is refused, what is deleted, what is found."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from common.command_line import flatten
from common.errors import UserError
from learning.checkpoint import save_checkpoint
from learning.runs import (
    check_settings,
    find_checkpoints,
    is_begun,
    is_finished,
    list_runs,
    lock_folder,
    lock_run,
    newest_run,
    open_run,
    run_name,
)
from systems.ecg_pcg.settings import ModelSettings, TrainingSettings, defaults

SETTINGS = defaults("small", "session")


def run(root: Path, *folds: str, identity: str = "abc", settings: TrainingSettings = SETTINGS) -> None:
    open_run(root / "ck" / "run", root / "log" / "run", "ecg-pcg", settings, identity, folds)


def trained(root: Path, *folds: str, settings: TrainingSettings = SETTINGS) -> None:
    """Leave what training leaves."""
    run(root, *folds, settings=settings)
    for name in folds:
        for file in ("best.pt", "last.pt"):
            save_checkpoint(root / "ck" / "run" / name / file, {"progress": {"finished": True}})
        (root / "log" / "run" / name).mkdir(parents=True)
        (root / "log" / "run" / name / "events").write_text("curve")


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_name_is_made_of_what_matters_most():
    assert run_name("ecg-pcg", SETTINGS) == "ecg-pcg-pacfnet-session-small-seed42"
    other = replace(
        SETTINGS, protocol="beat", preset="paper", seed=7, model=ModelSettings(model="late-fusion")
    )
    assert run_name("ecg-pcg", other) == "ecg-pcg-late-fusion-beat-paper-seed7"
    assert run_name("ecg-pcg", replace(SETTINGS, run_name="mine")) == "mine"


def test_settings_are_stored_and_read_back(tmp_path):
    run(tmp_path, "fold_0")
    stored = json.loads((tmp_path / "ck" / "run" / "settings.json").read_text())
    assert (stored["task"], stored["cache"]) == ("ecg-pcg", "abc")
    assert stored["settings"]["optimization"]["epochs"] == 8


def test_fold_that_is_there_is_refused_and_kept(tmp_path):
    trained(tmp_path, "fold_0", "fold_1")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"holds fold_1\. Go on with --resume.*--overwrite.*--run-name"):
        run(tmp_path, "fold_1", "fold_2")
    assert files(tmp_path) == before


def test_another_fold_is_added(tmp_path):
    trained(tmp_path, "fold_0", settings=replace(SETTINGS, folds=(0,)))
    before = files(tmp_path)
    run(tmp_path, "fold_1", settings=replace(SETTINGS, folds=(1,)))
    assert files(tmp_path) == before


def test_resume_takes_what_is_there(tmp_path):
    trained(tmp_path, "fold_0")
    before = files(tmp_path)
    run(tmp_path, "fold_0", "fold_1", settings=replace(SETTINGS, resume=True))
    assert files(tmp_path) == before


def test_overwrite_deletes_the_folds_asked_for_and_their_curves_only(tmp_path):
    trained(tmp_path, "fold_0", "fold_1", "fold_all")
    before = files(tmp_path)
    run(tmp_path, "fold_1", settings=replace(SETTINGS, overwrite=True))
    assert before - files(tmp_path) == {
        "ck/run/fold_1/best.pt",
        "ck/run/fold_1/last.pt",
        "log/run/fold_1/events",
    }


def test_overwriting_every_fold_may_change_the_settings(tmp_path):
    trained(tmp_path, "fold_0")
    run(tmp_path, "fold_0", settings=replace(SETTINGS, overwrite=True, seed=7))
    assert json.loads((tmp_path / "ck" / "run" / "settings.json").read_text())["settings"]["seed"] == 7


def test_overwrite_under_other_settings_than_the_folds_that_stay_deletes_nothing(tmp_path):
    trained(tmp_path, "fold_0", "fold_1")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"seed: 42 then, 7 now"):
        run(tmp_path, "fold_1", settings=replace(SETTINGS, overwrite=True, seed=7))
    assert files(tmp_path) == before


@pytest.mark.parametrize("how", ["resume", "add"])
def test_other_settings_are_refused_and_named(tmp_path, how):
    trained(tmp_path, "fold_0")
    changed = replace(
        SETTINGS,
        seed=7,
        model=replace(SETTINGS.model, width=24),
        optimization=replace(SETTINGS.optimization, learning_rate=0.01),
        resume=how == "resume",
    )
    before = (tmp_path / "ck" / "run" / "settings.json").read_text()
    with pytest.raises(UserError, match="begun with other settings") as refusal:
        run(tmp_path, "fold_0" if how == "resume" else "fold_1", settings=changed)
    message = str(refusal.value)
    for difference in (
        "seed: 42 then, 7 now",
        "model.width: 16 then, 24 now",
        "optimization.learning_rate: 0.002 then, 0.01 now",
    ):
        assert difference in message
    assert "epochs" not in message
    assert "--run-name" in message
    assert (tmp_path / "ck" / "run" / "settings.json").read_text() == before


def test_a_run_begun_before_a_setting_existed_goes_on_with_its_default(tmp_path):
    trained(tmp_path, "fold_0")
    stored = tmp_path / "ck" / "run" / "settings.json"
    older = json.loads(stored.read_text())
    del older["settings"]["precision"], older["settings"]["optimization"]["fused"]
    stored.write_text(json.dumps(older))
    with pytest.raises(UserError, match=r"precision: auto then, float32 now"):
        run(tmp_path, "fold_1", settings=replace(SETTINGS, precision="float32"))
    run(tmp_path, "fold_0", settings=replace(SETTINGS, resume=True))
    assert json.loads(stored.read_text())["settings"]["precision"] == "auto"


def test_other_data_are_refused(tmp_path):
    trained(tmp_path, "fold_0")
    said = r"prepared data: the cache named \.\.\.-abc then, \.\.\.-def now"
    with pytest.raises(UserError, match=said):
        run(tmp_path, "fold_1", identity="def")


def test_where_and_how_fast_may_change(tmp_path):
    trained(tmp_path, "fold_0")
    moved = replace(SETTINGS, device="cuda", threads=8, cache=Path("elsewhere"), folds=(1,), resume=True)
    run(tmp_path, "fold_1", settings=moved)
    stored = json.loads((tmp_path / "ck" / "run" / "settings.json").read_text(encoding="utf-8"))
    assert (stored["settings"]["device"], stored["settings"]["threads"]) == ("cuda", 8)


def test_flatten():
    assert flatten({"a": 1, "b": {"c": {"d": 2}, "e": [3]}}) == {"a": 1, "b.c.d": 2, "b.e": [3]}


@pytest.mark.parametrize(
    ("best", "last", "finished"),
    [
        ({"threshold": 0.4}, {"finished": True}, True),
        ({"threshold": 0.4}, {"finished": False}, False),
        ({}, {"finished": True}, False),
        (None, {"finished": True}, False),
        ({"threshold": 0.4}, None, False),
    ],
)
def test_a_fold_is_finished_when_its_threshold_is_found(tmp_path, best, last, finished):
    if best is not None:
        save_checkpoint(tmp_path / "best.pt", best)
    if last is not None:
        save_checkpoint(tmp_path / "last.pt", {"progress": last})
    assert is_finished(tmp_path) is finished


def touch(path: Path, time: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time, time))
    return path


def test_newest_run_is_the_one_trained_last(tmp_path):
    touch(tmp_path / "b" / "fold_0" / "best.pt", 300)
    touch(tmp_path / "a" / "fold_1" / "best.pt", 200)
    touch(tmp_path / "a" / "fold_0" / "best.pt", 400)
    touch(tmp_path / "c" / "fold_0" / "last.pt", 900)  # not finished
    assert newest_run(tmp_path) == tmp_path / "a"
    assert find_checkpoints(None, tmp_path, "best") == [
        tmp_path / "a" / "fold_0" / "best.pt",
        tmp_path / "a" / "fold_1" / "best.pt",
    ]


def test_no_run_at_all(tmp_path):
    with pytest.raises(UserError, match=r"no trained run in .*Train one with training.py"):
        newest_run(tmp_path / "nowhere")


def test_checkpoint_by_file_by_fold_and_by_run(tmp_path):
    best = touch(tmp_path / "run" / "fold_0" / "best.pt", 1)
    last = touch(tmp_path / "run" / "fold_0" / "last.pt", 1)
    everything = touch(tmp_path / "run" / "fold_all" / "best.pt", 1)
    assert find_checkpoints(last, tmp_path, "best") == [last]
    assert find_checkpoints(best.parent, tmp_path, "last") == [last]
    assert find_checkpoints(tmp_path / "run", tmp_path, "best") == [best]
    best.unlink()
    assert find_checkpoints(tmp_path / "run", tmp_path, "best") == [everything]


def test_missing_run_is_answered_with_those_there(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "settings.json").write_text("{}")
    with pytest.raises(UserError, match=r"no best.pt in .*your.*Runs in .*: mine\."):
        find_checkpoints(tmp_path / "your", tmp_path, "best")


def test_other_folds_may_be_trained_beside_and_the_same_one_may_not(tmp_path):
    run = tmp_path / "run"
    with lock_run(run, ["fold_0", "fold_1"]):
        with lock_run(run, ["fold_2"]), lock_folder(run):
            assert len(list(run.glob(".lock_*"))) == 4
        said = r"fold_1 of .*run is being trained by process \d+ on .*--run-name"
        with pytest.raises(UserError, match=said), lock_run(run, ["fold_3", "fold_1"]):
            pass
        assert sorted(path.name for path in run.iterdir()) == [".lock_fold_0", ".lock_fold_1"]
    assert not run.exists(), "nothing came of it"


def test_what_the_folds_share_is_written_by_one_process_after_the_other(tmp_path):
    order = []

    def second() -> None:
        with lock_folder(tmp_path / "run"):
            order.append("second")

    with lock_folder(tmp_path / "run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_fold_is_begun_once_somebody_trains_it(tmp_path):
    """Else the table of splits, written by one fold's process, forgets the fold that is trained beside."""
    run = tmp_path / "run"
    with lock_run(run, ["fold_0"]):
        assert is_begun(run, "fold_0") and not is_begun(run, "fold_1")
    assert not is_begun(run, "fold_0"), "nothing came of it"
    (run / "fold_0").mkdir(parents=True)
    assert is_begun(run, "fold_0")


def test_settings_that_differ_are_named_before_anything_else(tmp_path):
    """Also where neither --resume nor --overwrite is given, and before samples are read."""
    trained(tmp_path, "fold_0")
    changed = replace(SETTINGS, seed=7)
    for check in (
        lambda: run(tmp_path, "fold_0", settings=changed),
        lambda: check_settings(tmp_path / "ck" / "run", "ecg-pcg", changed, "abc"),
    ):
        with pytest.raises(UserError, match=r"begun with other settings \(seed: 42 then, 7 now\)"):
            check()
    check_settings(tmp_path / "ck" / "run", "ecg-pcg", SETTINGS, "abc")
    check_settings(tmp_path / "ck" / "run", "ecg-pcg", replace(changed, overwrite=True), "abc")
    check_settings(tmp_path / "ck" / "none", "ecg-pcg", changed, "abc")


def test_more_epochs_for_a_finished_run_are_refused_with_the_reason(tmp_path):
    trained(tmp_path, "fold_0")
    longer = replace(SETTINGS, resume=True, optimization=replace(SETTINGS.optimization, epochs=12))
    with pytest.raises(UserError, match=r"epochs: 8 then, 12 now.*Epochs are not added.*learning rate"):
        run(tmp_path, "fold_0", settings=longer)


def test_overwrite_says_what_it_deletes(tmp_path, capsys):
    trained(tmp_path, "fold_0", "fold_1")
    (tmp_path / "ck" / "run" / "fold_1" / "last.pt").unlink()
    content = {"progress": {"finished": True, "epoch": 8}}
    save_checkpoint(tmp_path / "ck" / "run" / "fold_0" / "last.pt", content)
    save_checkpoint(tmp_path / "ck" / "run" / "fold_0" / "best.pt", content | {"threshold": 0.5})
    run(tmp_path, "fold_0", "fold_1", "fold_2", settings=replace(SETTINGS, overwrite=True))
    said = capsys.readouterr().out
    assert f"Deleting fold_0 (finished, 8 epochs), fold_1 of {tmp_path / 'ck' / 'run'}" in said
    assert f"and their curves in {tmp_path / 'log' / 'run'}." in said and "fold_2" not in said
    run(tmp_path, "fold_0", settings=replace(SETTINGS, overwrite=True))
    assert capsys.readouterr().out == "", "there is nothing any more"


def test_runs_are_listed_with_what_is_trained(tmp_path):
    assert list_runs(tmp_path / "ck").startswith("No runs in ")
    trained(tmp_path, "fold_0")
    content = {"progress": {"finished": False, "epoch": 1}}
    save_checkpoint(tmp_path / "ck" / "run" / "fold_0" / "last.pt", content)
    path = tmp_path / "ck" / "run"
    assert f"  {path} (ecg-pcg): fold_0 (unfinished, 1 epoch)" in list_runs(tmp_path / "ck")
