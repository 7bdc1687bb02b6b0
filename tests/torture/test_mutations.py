"""Bad input: 100 of the thousand mutated recordings and tables of ``make torture``."""

from pathlib import Path

import pytest

from tests.torture.houses import COHORT, LAYOUTS, PHYSIONET, build_houses, prepare
from tests.torture.mutations import KINDS, cases
from tests.torture.trial import run_case

SAMPLE = 100


@pytest.fixture(scope="module")
def houses(tmp_path_factory):
    """Return good houses by layout, not to be changed."""
    return build_houses(tmp_path_factory.mktemp("houses"))


@pytest.fixture(scope="module")
def good(houses, tmp_path_factory):
    """Return the digests of the beats of the good recordings, by layout."""
    cache = tmp_path_factory.mktemp("good")
    return {layout: prepare(house, cache).beats() for layout, house in houses.items()}


def test_every_good_recording_is_used(houses, good):
    assert {layout: sorted(digests) for layout, digests in good.items()} == {
        layout: house.names for layout, house in houses.items()
    }
    assert len(set(good[PHYSIONET].values())) == 4


def test_onsets_and_layout_make_no_difference_where_they_should_not(good):
    """The recordings of one's own cohort that have onsets give the very beats of the published layout."""
    assert good[COHORT]["visit1/p001"] == good[PHYSIONET]["a0001"]
    assert good[COHORT]["p003"] == good[PHYSIONET]["a0003"]
    assert good[COHORT]["p004"] != good[PHYSIONET]["a0004"]


def test_the_sample_holds_every_kind():
    assert {case.kind.name for case in cases(SAMPLE)} == set(KINDS)
    assert {case.layout for case in cases(SAMPLE)} == set(LAYOUTS)
    assert [str(case) for case in cases(1000)][:SAMPLE] == [str(case) for case in cases(SAMPLE)]


@pytest.mark.parametrize("ending", [".hea", ".dat", ".wav"])
def test_a_file_that_may_not_be_read_is_named(houses, good, tmp_path, monkeypatch, ending):
    house = houses[PHYSIONET]
    closed = house.header("a0002").with_suffix(ending)
    original = Path.open

    def refusing(path, *arguments, **options):
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    prepared = prepare(house, tmp_path)
    assert prepared.cache is not None
    skipped = prepared.cache.table("skipped")
    assert skipped["recording"].tolist() == ["a0002"]
    assert "Permission denied" in skipped["reason"][0]
    assert prepared.beats() == {name: good[PHYSIONET][name] for name in ("a0001", "a0003", "a0004")}


@pytest.mark.parametrize("case", list(cases(SAMPLE)), ids=str)
def test_bad_input_is_named_and_harms_nothing_else(case, houses, good, tmp_path):
    run_case(case, houses[case.layout], good[case.layout], tmp_path / "case")
