"""Bad input: 100 of the thousand mutated recordings and tables of ``make robustness``."""

from pathlib import Path

import pytest

from tests.robustness.mutations import MUTATIONS, cases
from tests.robustness.trial import run_case
from tests.robustness.workspaces import COHORT, LAYOUTS, PHYSIONET, build_workspaces, prepare

SAMPLE = 100


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory):
    """Return good workspaces by layout, not to be changed."""
    return build_workspaces(tmp_path_factory.mktemp("workspaces"))


@pytest.fixture(scope="module")
def good(workspaces, tmp_path_factory):
    """Return the digests of the beats of the good recordings, by layout."""
    cache = tmp_path_factory.mktemp("good")
    return {layout: prepare(workspace, cache).beats() for layout, workspace in workspaces.items()}


def test_every_good_recording_is_used(workspaces, good):
    assert {layout: sorted(digests) for layout, digests in good.items()} == {
        layout: workspace.names for layout, workspace in workspaces.items()
    }
    assert len(set(good[PHYSIONET].values())) == 4


def test_onsets_and_layout_make_no_difference_where_they_should_not(good):
    """The recordings of one's own cohort that have onsets give the very beats of the published layout."""
    assert good[COHORT]["visit1/p001"] == good[PHYSIONET]["a0001"]
    assert good[COHORT]["p003"] == good[PHYSIONET]["a0003"]
    assert good[COHORT]["p004"] != good[PHYSIONET]["a0004"]


def test_the_sample_holds_every_mutation():
    assert {case.mutation.name for case in cases(SAMPLE)} == set(MUTATIONS)
    assert {case.layout for case in cases(SAMPLE)} == set(LAYOUTS)
    assert [str(case) for case in cases(1000)][:SAMPLE] == [str(case) for case in cases(SAMPLE)]


@pytest.mark.parametrize("ending", [".hea", ".dat", ".wav"])
def test_a_file_that_may_not_be_read_is_named(workspaces, good, tmp_path, monkeypatch, ending):
    workspace = workspaces[PHYSIONET]
    closed = workspace.header("a0002").with_suffix(ending)
    original = Path.open

    def refusing(path, *arguments, **options):
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    prepared = prepare(workspace, tmp_path)
    assert prepared.cache is not None
    skipped = prepared.cache.table("skipped")
    assert skipped["recording"].tolist() == ["a0002"]
    assert "Permission denied" in skipped["reason"][0]
    assert prepared.beats() == {name: good[PHYSIONET][name] for name in ("a0001", "a0003", "a0004")}


@pytest.mark.parametrize("case", list(cases(SAMPLE)), ids=str)
def test_bad_input_is_named_and_harms_nothing_else(case, workspaces, good, tmp_path):
    run_case(case, workspaces[case.layout], good[case.layout], tmp_path / "case")
