import numpy as np
import pytest
from scipy import integrate
from sklearn.feature_selection import _mutual_info

from ascertain.errors import DataError, InputError, ShapeError
from ascertain.evidence import Evidence
from ascertain.probes.information import Binned, Compressed, Neighbours, Noisy, information_plane, mutual_information


def gaussian(rho, n, d=1, seed=0):
    r = np.random.default_rng(seed)
    x = r.normal(size=(n, d))
    return x, rho * x + np.sqrt(1 - rho**2) * r.normal(size=(n, d))


@pytest.mark.parametrize(("rho", "d"), [(0.0, 1), (0.5, 1), (0.9, 1), (0.9, 2), (0.6, 3)])
def test_neighbours_find_the_information_of_gaussians(rho, d):
    x, y = gaussian(rho, 3000, d)
    found = mutual_information(x, y, method=Neighbours())
    truth = -d / 2 * np.log2(1 - rho**2)
    assert found.lower - 0.03 < truth < found.upper + 0.03 and found.upper - found.lower < 0.25
    assert abs(found.null) < 0.05 and found.evidence is Evidence.ESTIMATED


def test_neighbours_equal_the_reference_in_one_dimension():
    x, y = (z / z.std() for z in gaussian(0.7, 500))
    reference = _mutual_info._compute_mi_cc(x[:, 0], y[:, 0], 3) / np.log(2)
    assert mutual_information(x, y, method=Neighbours(3)).value == pytest.approx(reference, rel=1e-10)
    labels = (y[:, 0] > 0).astype(int) + (y[:, 0] > 1)
    reference = _mutual_info._compute_mi_cd(x[:, 0], labels, 5) / np.log(2)
    assert mutual_information(x, labels, method=Neighbours(5)).value == pytest.approx(reference, rel=1e-10)


def test_compression_finds_gaussians_that_are_embedded_in_many_dimensions():
    x, y = gaussian(0.9, 1500, 2)
    r = np.random.default_rng(1)
    wide = [z @ np.linalg.qr(r.normal(size=(20, 20)))[0][:2] + 0.05 * r.normal(size=(1500, 20)) for z in (x, y)]
    truth = -np.log2(1 - (0.9 / (1 + 0.05**2)) ** 2)
    found = mutual_information(*wide, method=Compressed(2))
    assert abs(found.value - truth) < 0.1 and "principal components" in found.meaning
    plain = mutual_information(*wide, method=Neighbours())
    assert abs(plain.value - truth) > abs(found.value - truth)


def test_information_is_the_same_for_any_scale():
    x, y = gaussian(0.7, 400, 2)
    for method in (Neighbours(), Compressed(2)):
        plain, scaled = (mutual_information(s * x, y, method=method).value for s in (1.0, 1e-3))
        assert plain == pytest.approx(scaled, rel=1e-9)


def test_bins_of_known_distributions():
    t = np.repeat(np.arange(8) + 0.5, 4)[:, None]
    found = mutual_information(t, method=Binned(1.0))
    assert found.value == found.lower == 3.0 and "log2 n = 5.00" in found.meaning and found.evidence is Evidence.BOUNDED
    assert mutual_information(t, method=Binned(2.0)).value == 2.0
    assert mutual_information(t, (t[:, 0] > 4).astype(int), method=Binned(1.0)).value == pytest.approx(1.0)
    assert mutual_information(3 * t, method=Binned(3.0)).value == 3.0
    x = np.linspace(-1, 1, 4096)[:, None]
    assert mutual_information(x, method=Binned(1e-6)).value == pytest.approx(12.0)


def test_bins_say_that_independent_numbers_are_what_chance_gives():
    x, y = gaussian(0.0, 500)
    fine = mutual_information(x, y, method=Binned(0.06))
    assert fine.value > 1.5 and fine.value - fine.null < 0.1
    assert abs(mutual_information(x, y, method=Neighbours()).value) < 0.15


def test_noise_of_two_inputs_by_quadrature():
    gap, s = 1.5, 0.7

    def density(z, centre):
        return np.exp(-((z - centre) ** 2) / (2 * s * s)) / (s * np.sqrt(2 * np.pi))

    def integrand(z):
        return -(p := 0.5 * density(z, 0) + 0.5 * density(z, gap)) * np.log2(p)

    truth = integrate.quad(integrand, -8, 10)[0] - 0.5 * np.log2(2 * np.pi * np.e * s * s)
    t = np.repeat([[0.0], [gap]], 400, 0)
    found = mutual_information(t, method=Noisy(s, 20))
    assert found.lower <= truth <= found.upper and found.value == pytest.approx(truth, abs=0.02)
    labelled = mutual_information(t, np.repeat([3, 9], 400), method=Noisy(s, 20))
    assert labelled.lower <= truth <= labelled.upper and labelled.value == pytest.approx(truth, abs=0.02)


def test_noise_between_its_limits():
    t = np.random.default_rng(0).normal(size=(300, 5))
    tiny, huge = (mutual_information(t, method=Noisy(s)) for s in (1e-4, 1e4))
    assert tiny.value == pytest.approx(np.log2(300)) and huge.value == pytest.approx(0, abs=1e-6)
    some = mutual_information(t, method=Noisy(0.5))
    assert 0 < some.lower <= some.value <= some.upper < np.log2(300)
    # adding noise: a larger deviation says less
    assert mutual_information(t, method=Noisy(1.0)).value < some.value


def test_plane_of_layers_and_what_can_be_said():
    r = np.random.default_rng(0)
    labels = r.integers(0, 2, 400)
    layers = {"first": r.normal(size=(400, 3)), "last": labels[:, None] + 0.1 * r.normal(size=(400, 2))}
    for method in (Binned(0.5), Neighbours(), Noisy(0.2), Compressed(2)):
        found = information_plane(layers, labels, method=method)
        assert found.layers == ("first", "last") and found.labels[1].value > found.labels[0].value
        assert found.labels[1].value == pytest.approx(1.0, abs=0.12)
    assert found.inputs[0].value == np.inf and "infinite" in found.inputs[0].meaning
    one = found.labels[0]
    assert str(one).startswith(f"{one.value:.4g} bits in [") and "evidence ESTIMATED" in str(one)


def test_information_of_layers_that_repeat_is_not_said_to_be_infinite():
    """Of steps (spikes, signs, dead units) it is finite: a function with few values cannot carry more than their entropy."""
    for steps, bits in ((np.arange(64) % 4, 2.0), (np.zeros(64), 0.0)):
        found = mutual_information(steps[:, None], method=Neighbours())
        assert found.value == pytest.approx(bits) and (found.lower, found.upper) == (0.0, np.inf)
        assert found.evidence is Evidence.ESTIMATED and "discrete" in found.meaning


def test_bad_input():
    x, y = gaussian(0.5, 40)
    with pytest.raises(DataError, match="coincide"):
        mutual_information(np.zeros((40, 1)), np.zeros((40, 1)), method=Neighbours())
    with pytest.raises(DataError, match="NaN"):
        mutual_information(x * np.nan, y, method=Neighbours())
    with pytest.raises(DataError, match="4 samples"):
        mutual_information(x[:3], y[:3], method=Neighbours())
    with pytest.raises(ShapeError, match="one for each"):
        mutual_information(x, y[:9], method=Neighbours())
    with pytest.raises(InputError, match="positive"):
        mutual_information(x, method=Binned(0.0))
    with pytest.raises(InputError, match="positive"):
        mutual_information(x, method=Noisy(-1.0))
    with pytest.raises(InputError, match="labels only"):
        mutual_information(x, y, method=Noisy(1.0))
    with pytest.raises(DataError, match="constant"):
        mutual_information(np.ones((40, 2)), y, method=Compressed())
    with pytest.raises(ShapeError, match="whole number"):
        information_plane({"a": x}, y, method=Binned(1.0))
