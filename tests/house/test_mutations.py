"""The list of planted errors fits the code: `bench/mutate.py` runs it before a release."""

from bench import mutate


def test_every_planted_error_still_has_its_place_and_its_tests():
    mutations = mutate.read_mutations()
    faults = [fault for mutation in mutations for fault in mutate.faults(mutation)]
    assert not faults, "\n".join(faults)
    places = [(m.file, m.old, m.new) for m in mutations]
    assert len(set(places)) == len(places), "an error is listed twice"
    assert all(m.note for m in mutations)
    assert len(mutations) >= 80


def test_a_place_that_is_gone_is_reported():
    planted = mutate.Mutation(
        "bench/mutate.py", "no such text", "other", ["tests/none.py", "bench/mutate.py::gone"], ""
    )
    text, file, name = mutate.faults(planted)
    assert text == "bench/mutate.py: 'no such text' occurs 0 times, expected once"
    assert "its test tests/none.py does not exist" in file
    assert "its test bench/mutate.py::gone does not exist" in name
