import numpy as np
import pytest
import torch
from torch import nn

from ascertain.errors import DataError, InputError, ModelError
from ascertain.evidence import Evidence
from ascertain.probes.learning_coefficient import Sampler, learning_coefficient
from ascertain.probes.mixing import effective_samples, split_r_hat


class Landscape(nn.Module):
    """A module whose output is a given function of its weights, whatever the input."""

    def __init__(self, start, function):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.function = function

    def forward(self, x):
        return self.function(self.w).expand(len(x))


def gibbs(function, n_beta, localization, start=(0.0, 0.0), reach=6.0, points=2401):
    """n_beta times the mean of a loss of two weights under its Gibbs law, by quadrature on a grid."""
    axis = np.linspace(-reach, reach, points)
    a, b = np.meshgrid(start[0] + axis, start[1] + axis, indexing="ij")
    values = function(a, b)
    weight = np.exp(-n_beta * (values - values.min()) - localization / 2 * ((a - start[0]) ** 2 + (b - start[1]) ** 2))
    return n_beta * ((weight * values).sum() / weight.sum() - float(function(np.array(start[0]), np.array(start[1]))))


X = torch.zeros(8, 1, dtype=torch.float64)


def test_unadjusted_quadratic_has_the_law_of_the_discrete_chain():
    h = torch.tensor([2.0, 1.0, 0.5, 0.1, 0.0], dtype=torch.float64)
    net = Landscape([0.0] * 5, lambda w: 0.5 * (h * w * w).sum())
    n_beta, gamma, step = 100.0, 1.0, 8e-3
    found = learning_coefficient(net, torch.mean, X, sampler=Sampler(300, 400, 400, step, gamma, n_beta))
    a = n_beta * h + gamma
    biased = float(0.5 * (n_beta * h / (a * (1 - step * a / 4))).sum())
    assert found.lower < biased < found.upper and found.upper - found.lower < 0.1
    assert not found.lower < float(0.5 * (n_beta * h / a).sum()) < found.upper
    assert found.r_hat < 1.05 and found.acceptance < 0.95 and found.parameters == 5


@pytest.mark.parametrize(
    ("function", "n_beta"),
    [
        (lambda a, b: a**2 * b**2, 100.0),
        (lambda a, b: a**6 + 0 * b, 100.0),
        (lambda a, b: a**4 * b**2, 100.0),
        (lambda a, b: a**2 + 0 * b, 1000.0),
        (lambda a, b: (a * a + b * b) ** 2, 50.0),
    ],
    ids=["crossing", "sixth", "ravine", "regular", "quartic"],
)
def test_adjusted_chains_have_the_exact_gibbs_law(function, n_beta):
    net = Landscape([0.0, 0.0], lambda w: function(w[0], w[1]))
    sampler = Sampler(300, 700, 300, None, 1.0, n_beta, None, True)
    found = learning_coefficient(net, torch.mean, X, sampler=sampler)
    truth = gibbs(function, n_beta, 1.0)
    assert abs(found.value - truth) < 3 * max(found.upper - found.lower, 1e-3) / 3.92
    assert found.upper - found.lower < 0.15 * truth and found.evidence is Evidence.ESTIMATED


class Neuron(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(1, 1, bias=False).double()
        self.b = nn.Linear(1, 1, bias=False).double()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.b(torch.tanh(self.a(x))))


def test_a_trained_neuron_agrees_with_quadrature_with_and_without_batches():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 1, generator=g, dtype=torch.float64)
    y = 0.7 * torch.tanh(0.8 * x) + 0.05 * torch.randn(60, 1, generator=g, dtype=torch.float64)
    net = Neuron().train()
    with torch.no_grad():
        net.a.weight.fill_(0.8)
        net.b.weight.fill_(0.7)
    xs, ys = x.numpy().ravel(), y.numpy().ravel()

    def loss(a, b):
        return sum((b * np.tanh(a * p) - q) ** 2 for p, q in zip(xs, ys, strict=True)) / len(xs)

    n_beta = len(x) / np.log(len(x))
    truth = gibbs(loss, n_beta, 2.0, (0.8, 0.7), 5.0, 401)
    before = [p.clone() for p in net.parameters()]
    state = torch.get_rng_state()
    exact = learning_coefficient(net, nn.functional.mse_loss, x, y, sampler=Sampler(150, 400, 200, None, 2.0, adjusted=True))
    assert abs(exact.value - truth) < 0.6 * (exact.upper - exact.lower) and exact.upper - exact.lower < 0.1
    small = learning_coefficient(net, nn.functional.mse_loss, x, y, sampler=Sampler(250, 500, 500, 0.008, 2.0, batch_size=45))
    assert abs(small.value - truth) < 0.6 * (small.upper - small.lower) + 0.02
    assert net.training and all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state()) and all(p.grad is None for p in net.parameters())


def test_chains_that_torch_cannot_batch_run_one_by_one_with_the_same_result():
    class Branching(Landscape):
        def forward(self, x):
            return super().forward(x) * (1.0 if float(self.w[0].detach()) > -1e9 else 2.0)

    sampler = Sampler(3, 50, 20, 0.01, 1.0, 10.0)
    plain = learning_coefficient(Landscape([0.0, 0.0], lambda w: (w**2).sum()), torch.mean, X, sampler=sampler)
    alone = learning_coefficient(Branching([0.0, 0.0], lambda w: (w**2).sum()), torch.mean, X, sampler=sampler)
    np.testing.assert_allclose(plain.trace, alone.trace, rtol=1e-10)
    assert plain.trace.shape == (3, 50)


def test_seed_layers_and_recurrent_modules():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1))
    x, y = torch.randn(40, 3), torch.randn(40, 1)
    sampler = Sampler(2, 60, 100)
    one, two = (learning_coefficient(net, nn.functional.mse_loss, x, y, sampler=sampler, seed=7) for _ in range(2))
    assert one.trace.tobytes() == two.trace.tobytes() and one.parameters == 16 + 8 + 5
    assert "evidence ESTIMATED from 2 chains of 60 draws" in str(one) and str(one).count("caution") == len(one.cautions) > 0
    assert learning_coefficient(net, nn.functional.mse_loss, x, y, sampler=sampler, layers=["3"]).parameters == 5

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 1)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    found = learning_coefficient(Recurrent(), nn.functional.mse_loss, torch.randn(10, 4, 2), torch.randn(10, 1), sampler=sampler)
    assert np.isfinite(found.value)


def test_what_speaks_against_a_number_is_said():
    slope = Landscape([0.0, 0.0], lambda w: w.sum() + 0.01 * (w**2).sum())
    found = learning_coefficient(slope, torch.mean, X, sampler=Sampler(2, 50, 100, None, 1.0, 10.0))
    text = " ".join(found.cautions)
    assert "no minimum" in text and "independent draws" in text
    bowl = Landscape([0.0] * 40, lambda w: (w**2).sum())
    coarse = learning_coefficient(bowl, torch.mean, X, sampler=Sampler(2, 50, 0, 0.15, 1.0, 10.0))
    assert any("too long" in c for c in coarse.cautions)
    fine = learning_coefficient(bowl, torch.mean, X, sampler=Sampler(2, 50, 0, 1e-5, 1.0, 10.0))
    assert any("disagree" in c for c in fine.cautions)


def test_bad_input():
    bowl = Landscape([0.0, 0.0], lambda w: (w**4).sum())
    with pytest.raises(DataError, match="diverged"):
        learning_coefficient(bowl, torch.mean, X, sampler=Sampler(2, 200, 0, 5.0, 1.0, 100.0))
    with pytest.raises(InputError, match="adjusted"):
        learning_coefficient(bowl, torch.mean, X, sampler=Sampler(batch_size=2, adjusted=True))
    with pytest.raises(InputError, match="too short"):
        learning_coefficient(bowl, torch.mean, X, sampler=Sampler(burn_in=5))
    with pytest.raises(InputError, match="one number"):
        learning_coefficient(bowl, lambda out: out, X)
    with pytest.raises(DataError, match="NaN"):
        learning_coefficient(bowl, lambda out: out.mean() * float("nan"), X)
    with pytest.raises(DataError, match="temperature"):
        learning_coefficient(bowl, torch.mean, X[:1])
    with pytest.raises(ModelError, match="no layer"):
        learning_coefficient(bowl, torch.mean, X, layers=["head"])
    with pytest.raises(InputError, match="no parameters"):
        learning_coefficient(nn.ReLU(), torch.mean, X)
    with pytest.raises(InputError, match="targets"):
        learning_coefficient(bowl, nn.functional.mse_loss, X, X[:3])


def test_diagnostics_of_known_chains():
    rng = np.random.default_rng(0)
    white = rng.normal(size=(4, 4000))
    assert effective_samples(white) == pytest.approx(16000, rel=0.1) and split_r_hat(white) == pytest.approx(1, abs=0.01)
    rho, slow = 0.9, np.zeros((4, 20000))
    for t in range(1, slow.shape[1]):
        slow[:, t] = rho * slow[:, t - 1] + rng.normal(size=4)
    assert effective_samples(slow) == pytest.approx(slow.size * (1 - rho) / (1 + rho), rel=0.15)
    assert split_r_hat(white + np.arange(4)[:, None]) > 1.2 and split_r_hat(np.ones((2, 8))) == 1.0
