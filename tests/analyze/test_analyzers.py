"""Overview and robustness on trained networks, against plain references."""

import numpy as np
import pytest
import torch

from ascertain import fixtures, load
from ascertain.analyze import Context, Result, analyze, overview
from ascertain.analyze.intervals import mean_interval, share
from ascertain.analyze.overview import Overview
from ascertain.analyze.robustness import Robustness
from ascertain.errors import InputError


@pytest.fixture(scope="module")
def digits():
    images = fixtures.digits()
    return images.x[:40].astype(float), images.y[:40]


@pytest.mark.parametrize("name", ["digits_mlp", "digits_conv"])
def test_overview_agrees_with_torch(name, digits):
    found = analyze(Overview(), Context(load(fixtures.path(name)), *digits))
    module = fixtures.build(name)
    assert found["parameters"].item() == sum(p.numel() for p in module.parameters())
    inputs = torch.tensor(digits[0]).reshape(-1, *((1, 8, 8) if "conv" in name else (64,)))
    norms, value = [], inputs
    module = module.double()
    means = [value.mean().item()]
    for layer in module:
        if list(layer.parameters()):
            jacobian = torch.autograd.functional.jacobian(layer, value[:1]).reshape(-1, value[0].numel())
            norms.append(torch.linalg.matrix_norm(jacobian, 2).item())
        value = layer(value)
        means.append(value.mean().item())
    assert np.allclose(found["spectral_norm"], norms, rtol=1e-6)
    assert all(np.isclose(found["activation_mean"], m, rtol=1e-5, atol=1e-7).any() for m in means)
    assert found["accuracy"].item() == float((value.argmax(1).numpy() == digits[1]).mean())
    interval = found.values["activation_mean"]
    assert (interval.low <= interval.value).all() and (interval.value <= interval.high).all()


def test_large_layers_are_estimated_between_an_attained_stretch_and_a_bound(monkeypatch, digits):
    net = load(fixtures.path("digits_conv"))
    exact = analyze(Overview(), Context(net))["spectral_norm"]
    monkeypatch.setattr(overview, "_DENSE", 0)
    found = analyze(Overview(), Context(net)).values["spectral_norm"]
    assert str(found.evidence) == "ESTIMATED" and np.allclose(found.value, exact, rtol=1e-9)
    assert (found.low <= exact * (1 + 1e-12)).all() and (exact <= found.high).all() and (found.high < 20 * exact).all()


def test_data_in_pieces_give_the_same_statistics(monkeypatch, digits):
    context = Context(load(fixtures.path("digits_mlp")), *digits)
    whole = analyze(Overview(), context)
    monkeypatch.setattr(overview, "_NUMBERS", 1000)
    pieces = analyze(Overview(), context)
    for name in ("activation_mean", "activation_deviation", "idle", "accuracy"):
        assert np.allclose(whole[name], pieces[name], rtol=1e-12), name


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_radii_enclose_the_truth_and_counterexamples_are_real(norm, digits):
    net = load(fixtures.path("digits_mlp"))
    x, y = digits[0][:3], np.array(digits[1][:3])
    y[2] = (y[2] + 1) % 10  # a wrong label: no radius at all
    found = analyze(Robustness(norm=norm, limit=0.6, tolerance=0.1, count=5, timeout=4.0), Context(net, x, y))
    assert found["inputs"].item() == 3 and (found["lower"] <= found["upper"]).all()
    assert found["lower"][2] == 0 and found["upper"][2] == 0 and (found["lower"][:2] > 0).all()
    assert (np.diff(found["certified"]) <= 0).all() and (found["certified"] <= found["not_broken"]).all()
    assert found["picture"].shape[1:] == (8, 8) if "picture" in found.values else True
    # No corner or random point nearer than the certified radius has another label.
    random = np.random.default_rng(0)
    for point, label, radius in zip(x[:2].reshape(2, -1), y, found["lower"], strict=False):
        moves = random.normal(size=(2000, 64))
        moves *= radius / np.linalg.norm(moves, float(norm), axis=1, keepdims=True)
        outputs = net((point + 0.999 * moves).reshape(-1, *net.input_shape)).reshape(2000, -1)
        assert (outputs.argmax(1) == label).all()


def test_views_of_robustness_come_from_the_record(digits):
    from ascertain.analyze import figure_of, read_record

    found = analyze(Robustness(limit=0.3, count=1, timeout=2.0), Context(load(fixtures.path("digits_conv")), *digits))
    stored = read_record(found.to_json())
    assert isinstance(stored, Result)
    figures = [figure_of(v, stored) for v in Robustness().views(stored)]
    assert [f["kind"] for f in figures] == ["text", "text", "line", "histogram", "image", "table"]
    assert "changes by up to" in figures[0]["text"] and figures[0]["finding"] and figures[0]["evidence"] == "PROVED"
    image, broken = (figures[-2]["channels"][c] for c in ("image", "counterexample"))
    assert image.shape == (1, 8, 8) and np.abs(broken - image).max() == pytest.approx(stored["upper"][0], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "positive count"),
        ({"norm": "3"}, "norm 3,.* give norm inf, 2 or 1"),
        ({"norm": "far"}, "norm far,"),
        ({"limit": 0.0}, "limit 0,"),
        ({"limit": np.nan}, "limit nan,"),
        ({"tolerance": 1.0}, "tolerance 1,"),
        ({"timeout": -1.0}, "timeout -1:"),
    ],
)
def test_options_of_robustness_that_make_no_sense(options, words, digits):
    with pytest.raises(InputError, match=words):
        analyze(Robustness(**options), Context(load(fixtures.path("digits_mlp")), *digits))


def test_intervals_cover_as_often_as_they_say():
    random, inside = np.random.default_rng(0), [0, 0]
    for _ in range(400):
        hits = random.binomial(30, 0.2)
        found = share(hits, 30, "")
        inside[0] += found.low <= 0.2 <= found.high
        mean = mean_interval(random.normal(1.0, 2.0, (1, 12)), "")
        inside[1] += mean.low[0] <= 1.0 <= mean.high[0]
    assert all(0.92 < n / 400 < 0.985 for n in inside)
    assert share(0, 5, "").low == 0 and share(5, 5, "").high == 1 and np.isinf(mean_interval(np.ones((1, 1)), "").high[0])
