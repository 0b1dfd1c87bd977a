"""The bounds benchmark measures what it says."""

import json

import numpy as np
from torch import nn

from ascertain import Box, bound, load
from benchmarks import bounds


def test_widths_are_those_of_the_bounds(tmp_path, capsys):
    study = bounds.Study("tiny", nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), np.full((1, 3), 0.5, np.float32), 0.1)
    found = bounds.ours(study, "interval", repeats=2)
    direct = bound(load(study.module, input_shape=(1, 3)), Box(np.full(3, 0.4), np.full(3, 0.6)), method="interval")
    assert np.isclose(found.mean_width, np.mean(direct.upper - direct.lower), rtol=1e-6)
    assert found.tool == "ascertain" and found.batch == 1
    bounds._show(found, None, tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text())["network"] == "tiny"
    assert "tiny" in capsys.readouterr().out


def test_random_networks_are_fixed_by_their_seed():
    for first, second in zip(bounds.random_studies(), bounds.random_studies(), strict=True):
        assert all((a == b).all() for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True))
        assert np.array_equal(first.x, second.x)


def test_reference_networks_are_read(shared):
    (study,) = (s for s in bounds.reference_studies(shared / "reference" / "bounds", 2) if s.name == "mlp_relu")
    assert study.x.shape == (2, 1, 28, 28)
    assert bounds.published(shared / "reference" / "bounds")["mlp_relu", 1, "crown"] == 27.439
