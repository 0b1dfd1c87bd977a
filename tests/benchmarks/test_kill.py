"""A suite that is killed a few times loses nothing; `benchmarks/kill.py` does it fifty times."""

from benchmarks.kill import trial


def test_a_suite_survives_being_killed(tmp_path):
    figures = trial(tmp_path, items=16, kills=3, seed=1)
    assert figures.items == 16 and figures.kills == 3 and figures.announced + figures.unannounced == 16
