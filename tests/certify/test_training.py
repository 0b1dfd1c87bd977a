"""Training bounds contain what they bound, agree with the certified interval bounds, and train networks that verify better."""

import numpy as np
import pytest
import torch
from torch import nn

from ascertain import Box, Status, bound, fixtures, load, robust, verify
from ascertain.certify.training import (
    Interval,
    crown_margins,
    interval_bounds,
    interval_margins,
    margin_loss,
    small_box,
    start_small,
)
from ascertain.errors import InputError, UnsupportedError
from ascertain.fixtures.architectures import new_network
from ascertain.fixtures.loop import Training
from ascertain.fixtures.recipe import Fixture, Recipe

NETWORKS = {
    "conv": ("conv", (1, 8, 8), {}),
    "mlp": ("mlp", (12,), {"widths": (9, 7)}),
    "resnet": ("resnet", (3, 8, 8), {"widths": (4, 6)}),
    "tanh": ("mlp", (12,), {"activation": "tanh"}),
}


@pytest.fixture(params=NETWORKS)
def case(request):
    name, shape, options = NETWORKS[request.param]
    torch.manual_seed(3)
    network = new_network(name, shape, 4, **options).double()
    for _ in range(2):
        network(torch.rand(8, *shape, dtype=torch.float64))
    return network.eval(), torch.rand(6, *shape, dtype=torch.float64)


@pytest.mark.parametrize("eps", [0.0, 0.02, 3.0])
def test_intervals_contain_samples_and_equal_the_certified_ones(case, eps):
    network, x = case
    found = interval_bounds(network, x, x - eps, x + eps)
    assert torch.equal(found.clean, network(x))
    for _ in range(50):
        corner = x + eps * torch.randint(-1, 2, x.shape)
        out = network(corner)
        assert (out >= found.lower - 1e-9).all() and (out <= found.upper + 1e-9).all()
    graph = load(network, input_shape=(1, *x.shape[1:]))
    for i in range(2):
        box = Box((x[i] - eps).numpy().ravel(), (x[i] + eps).numpy().ravel())
        certified = bound(graph, box, method="interval")
        assert np.allclose(certified.lower, found.lower[i].detach(), rtol=1e-7, atol=1e-8)
        assert np.allclose(certified.upper, found.upper[i].detach(), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["conv", "mlp"])
@pytest.mark.parametrize("eps", [0.0, 0.05, 0.5])
def test_linear_margins_hold_and_are_tighter_than_intervals_on_small_boxes(name, eps):
    torch.manual_seed(1)
    architecture, shape, options = NETWORKS[name]
    network = new_network(architecture, shape, 4, **options).double()
    x, y = torch.rand(5, *shape, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1])
    linear = crown_margins(network, x - eps, x + eps, y, 4)
    for _ in range(100):
        out = network(x + eps * (2 * torch.rand_like(x) - 1).sign())
        assert (out.gather(1, y[:, None]) - out >= linear - 1e-9).all()
    interval = interval_margins(interval_bounds(network, x, x - eps, x + eps), y)
    assert torch.equal(interval.gather(1, y[:, None]), torch.zeros(5, 1, dtype=torch.float64))
    assert linear.mean() > interval.mean() if eps == 0.05 else (eps > 0 or torch.allclose(linear, interval))


def test_batch_norm_in_training_takes_its_statistics_from_the_clean_inputs():
    torch.manual_seed(0)
    layer, twin = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    for part in (layer, twin):
        nn.init.normal_(part.weight, generator=torch.Generator().manual_seed(5))
    x = torch.randn(4, 3, 5, 5)
    found = interval_bounds(layer, x, x - 0.1, x + 0.1)
    assert torch.equal(found.clean, twin(x)) and torch.equal(layer.running_var, twin.running_var)
    assert torch.allclose((found.lower + found.upper) / 2, found.clean, atol=1e-5)
    half = 0.1 * (layer.weight.abs() / (x.var((0, 2, 3), unbiased=False) + layer.eps).sqrt())
    assert torch.allclose((found.upper - found.lower) / 2, half[:, None, None].expand_as(x), atol=1e-5)


def test_products_of_intervals():
    low, high = torch.tensor([-2.0, 1.0, -3.0]), torch.tensor([1.0, 2.0, -1.0])
    x = Interval(low, low, high)
    for other in (Interval(low.flip(0), low.flip(0), high.flip(0)), torch.tensor([-1.0, 0.0, 2.0]), -2.0):
        found = x * other
        ends = [other.lower, other.upper] if isinstance(other, Interval) else [other]
        products = torch.stack([a * b for a in (low, high) for b in ends])
        assert torch.equal(found.lower, products.amin(0)) and torch.equal(found.upper, products.amax(0))
    assert torch.equal((3 - x).lower, 3 - high) and torch.equal((x / -2).upper, low / -2)


def test_small_boxes_stay_inside_and_hold_the_attack():
    x, eps = torch.rand(20, 7), 0.1
    attacked = x + eps * torch.randint(-1, 2, x.shape)
    for share in (0.1, 0.5, 1.0):
        lower, upper = small_box(x, attacked, eps, share)
        assert torch.allclose(upper - lower, torch.full_like(x, 2 * share * eps), atol=1e-6)
        assert (lower >= x - eps - 1e-6).all() and (upper <= x + eps + 1e-6).all()
        assert (lower <= attacked + 1e-6).all() and (attacked <= upper + 1e-6).all()


def test_start_small_keeps_the_width_of_intervals():
    torch.manual_seed(0)
    network = new_network("mlp", (200,), 10, widths=(200,) * 6)
    start_small(network)
    x = torch.rand(16, 200)
    widths = []
    bounds = Interval(x, x - 0.1, x + 0.1)
    for layer in network:
        bounds = layer(bounds)
        widths.append(float((bounds.upper - bounds.lower).mean()))
    assert 0.3 < widths[9] / widths[1] < 3


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    network = new_network("mlp", (5,), 3, widths=(6, 4)).double()
    x, y = torch.rand(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    exact = interval_bounds(network, x, x, x)
    assert margin_loss(interval_margins(exact, y), y).item() == pytest.approx(nn.functional.cross_entropy(network(x), y).item())
    crown = margin_loss(crown_margins(network, x - 0.1, x + 0.1, y, 3), y)
    torch.autograd.backward(crown)
    step = torch.zeros_like(network[0].weight)
    step[2, 3] = 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            network[0].weight.add_(sign * step)
            values.append(float(margin_loss(crown_margins(network, x - 0.1, x + 0.1, y, 3), y)))
            network[0].weight.sub_(sign * step)
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(network[0].weight.grad[2, 3]), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("loss", ["ibp", "crown-ibp", "sabr", "mtl-ibp"])
def test_certified_training_makes_digits_verify(loss):
    """After a few seconds of training more images verify than of a network that was trained for accuracy alone."""
    recipe = Recipe(epochs=5, rate=1e-2, loss=loss, eps=0.06, attack_steps=2)
    counts = {}
    for name, how in (("certified", recipe), ("plain", Recipe(epochs=5, rate=1e-2))):
        model = Training(Fixture(name, "digits", "mlp", (64,), 10, how, {"widths": (32,)})).run()
        graph = load(model, input_shape=(1, 64))
        x, y = fixtures.examples("digits_mlp")
        asked = (robust(a, 0.06, label=int(b), classes=10) for a, b in zip(x[:8], y[:8], strict=True))
        counts[name] = sum(verify(graph, question, timeout=5).status is Status.HOLDS for question in asked)
    assert counts["certified"] > counts["plain"]


def test_what_has_no_rule_is_named():
    x = torch.rand(2, 4)
    with pytest.raises(UnsupportedError, match="cos"):
        interval_bounds(nn.Sequential(nn.Linear(4, 2), type("Cos", (nn.Module,), {"forward": lambda self, x: x.cos()})()), x, x, x)
    with pytest.raises(UnsupportedError, match="dropout"):
        interval_bounds(nn.Sequential(nn.Dropout(0.5)).train(), x, x, x)
    with pytest.raises(UnsupportedError, match="Tanh has no rule for CROWN-IBP"):
        crown_margins(nn.Sequential(nn.Linear(4, 2), nn.Tanh()), x, x, torch.tensor([0, 1]), 2)
    sine = Fixture("sine", "sine", "mlp", (1,), 1, Recipe(epochs=1, loss="ibp", eps=0.1))
    with pytest.raises(InputError, match="one class for each input"):
        Training(sine).advance()
    with pytest.raises(InputError, match="does not go with"):
        Recipe(eps=0.1)
