"""The public call: outputs, layers, certificates, equilibrium models, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ascertain import Evidence, fixtures, lipschitz, lipschitz_pairs, load
from ascertain.certify.lipschitz import Norms, plant, plant_constant, read_certificate, recheck
from ascertain.certify.lipschitz.equilibrium import equilibrium, maxmin_equilibrium
from ascertain.certify.lipschitz.rigorous import NotVerified, prove
from ascertain.certify.lipschitz.start import start
from ascertain.errors import DataError, ModelError, ShapeError, UnsupportedError
from ascertain.graph import Builder
from ascertain.operators import Dense, GroupSort, LeakyRelu, Relu, Sum, Tanh
from tests.certify.lipschitz.networks import gaussian, jacobians, mlp, operator_norm, square


def test_pairs_and_directions():
    network = mlp(square(10, 2, 4))
    whole = lipschitz(network).value
    sampled = jacobians(network, 2000)
    all_pairs = lipschitz_pairs(network)
    assert np.array_equal(all_pairs, all_pairs.T) and not all_pairs.diagonal().any()
    for a, b in ((0, 1), (3, 2)):
        one = lipschitz(network, pair=(a, b)).value
        same = lipschitz(network, directions=np.eye(4)[a] - np.eye(4)[b]).value
        assert one == pytest.approx(same, rel=1e-9)
        truth = max(np.linalg.norm(j[a] - j[b]) for j in sampled)
        assert truth <= one <= all_pairs[a, b] * (1 + 1e-9) <= np.sqrt(2) * whole * (1 + 1e-6)
    inf = lipschitz(network, np.inf, pair=(0, 1)).value
    assert max(np.abs(j[0] - j[1]).sum() for j in sampled) <= inf


def test_one_class_is_a_direction():
    network = mlp(square(10, 2, 4))
    rows = [lipschitz(network, directions=row).value for row in np.eye(4)]
    assert lipschitz(network, 2, output_norm=np.inf).value == pytest.approx(max(rows), rel=1e-7)


def residual():
    w, h, v = gaussian((4, 7), 0)[0], gaussian((7, 4), 1)[0], gaussian((4, 3), 2)[0]
    builder = Builder()
    x = builder.input((1, 4))
    builder.scope = "inner"
    inner = builder(Relu(), builder(Dense(w), x))
    builder.scope = "sum"
    total = builder(Sum((1.0, 1.0)), x, builder(Dense(h), inner))
    builder.scope = "last"
    return builder.graph(x, builder(Dense(v), total)), v


def test_between_two_layers():
    network, v = residual()
    assert lipschitz(network, layers=("sum", "last")).value == pytest.approx(np.linalg.norm(v, 2), rel=1e-7)
    assert lipschitz(network, layers=(0, len(network.nodes) - 1)).value == lipschitz(network).value
    with pytest.raises(ModelError, match="around node 'inner'"):
        lipschitz(network, layers=("inner", "last"))
    with pytest.raises(ModelError, match="no node 'missing'"):
        lipschitz(network, layers=("missing", "last"))
    with pytest.raises(ModelError, match="earlier node first"):
        lipschitz(network, layers=("last", "sum"))
    with pytest.raises(ModelError, match="earlier node first"):
        lipschitz(network, layers=("last", "last"))


@pytest.mark.parametrize(
    "options",
    [
        {"norm": 3},
        {"norm": float("nan")},
        {"output_norm": 0},
        {"method": "guess"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"tolerance": 2.0},
        {"pair": (0, 1), "directions": np.eye(3)},
        {"directions": np.full((1, 3), np.nan)},
    ],
)
def test_bad_options(options):
    with pytest.raises(DataError):
        lipschitz(mlp(square(4, 1, 3)), **options)


@pytest.mark.parametrize("options", [{"pair": (0, 3)}, {"pair": (1, 1)}, {"pair": (-1, 0)}, {"directions": np.ones((2, 4))}])
def test_bad_outputs(options):
    with pytest.raises(ShapeError):
        lipschitz(mlp(square(4, 1, 3)), **options)


def test_certificates_are_saved_and_read(tmp_path):
    found = lipschitz(mlp(square(8, 2, 3)))
    file = tmp_path / "proof.npz"
    found.certificate.save(file)
    again = read_certificate(file)
    assert again.value == found.value and again.hash == mlp(square(8, 2, 3)).hash
    assert all(np.array_equal(a, b) for a, b in zip(again.storage, found.certificate.storage, strict=True))
    for damage in (b"", b"no archive", file.read_bytes()[:200]):
        bad = tmp_path / "bad.npz"
        bad.write_bytes(damage)
        with pytest.raises(DataError, match="no Lipschitz certificate"):
            read_certificate(bad)


def patterns(a, b, c, count=3000, least=0.0):
    """The largest norm of an equilibrium model's Jacobian over random slopes 1 and least."""
    rng, n = np.random.default_rng(0), len(a)
    best = 0.0
    for _ in range(count):
        d = np.where(rng.random(n) < rng.random(), 1.0, least)
        best = max(best, np.linalg.norm(c @ np.linalg.solve(np.eye(n) - d[:, None] * a, d[:, None] * b), 2))
    return best


def monotone(n, m, rng):
    p, s = (rng.standard_normal((n, n)) / np.sqrt(n) for _ in range(2))
    return (1 - m) * np.eye(n) - p.T @ p + s - s.T


def test_monotone_equilibrium_models():
    rng = np.random.default_rng(0)
    a, b, c = monotone(12, 0.1, rng), rng.standard_normal((12, 5)), rng.standard_normal((3, 12))
    found = plant_constant(equilibrium(a, b, c))
    assert found.evidence == Evidence.PROVED
    assert patterns(a, b, c) <= found.value <= np.linalg.norm(b, 2) * np.linalg.norm(c, 2) / 0.1
    with_skip = plant_constant(equilibrium(a, b, c, np.ones((3, 5)))).value
    assert abs(with_skip - found.value) <= np.linalg.norm(np.ones((3, 5)), 2) * (1 + 1e-6)


def test_an_equilibrium_model_without_feedback_is_a_layer():
    weights = gaussian((4, 8, 3), 0)
    form = equilibrium(np.zeros((8, 8)), weights[0], weights[1])
    assert plant_constant(form).value == pytest.approx(lipschitz(mlp(weights)).value, rel=1e-6)


def test_ill_posed_equilibrium_models_are_refused():
    with pytest.raises(UnsupportedError, match="well-posed"):
        plant_constant(equilibrium(np.array([[2.0]]), np.array([[1.0]]), np.array([[1.0]])))
    with pytest.raises(DataError, match="invertible"):
        maxmin_equilibrium(np.eye(2), np.eye(2), np.eye(2))


@pytest.mark.parametrize("size", [0.4, 0.7, 0.9])
def test_maxmin_equilibrium_models(size):
    rng = np.random.default_rng(1)
    a = rng.standard_normal((8, 8))
    a *= size / np.linalg.norm(a, 2)
    b, c = rng.standard_normal((8, 4)), rng.standard_normal((3, 8))
    found = plant_constant(maxmin_equilibrium(a, b, c)).value
    best = 0.0
    for _ in range(500):
        swap = np.kron(np.diag((rng.random(4) < 0.5).astype(float)), np.array([[0.0, 1], [1, 0]]))
        keep = np.eye(8) * (1 - swap.sum(1))[:, None] + swap
        best = max(best, np.linalg.norm(c @ np.linalg.solve(np.eye(8) - keep @ a, keep @ b), 2))
    assert best <= found <= np.linalg.norm(b, 2) * np.linalg.norm(c, 2) / (1 - size)
    assert found <= 1.3 * best


@pytest.mark.parametrize("bad", [(np.eye(2), np.ones((3, 1)), np.ones((1, 2))), (np.eye(2), np.ones((2, 1)), np.ones((1, 3)))])
def test_equilibrium_sizes(bad):
    with pytest.raises(ShapeError):
        equilibrium(*bad)
    with pytest.raises(DataError):
        equilibrium(np.eye(2) * np.nan, np.ones((2, 1)), np.ones((1, 2)))


@pytest.fixture
def ask(capsys):
    from ascertain.cli.main import run

    def call(*arguments):
        code = run([str(a) for a in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_command_line(ask, tmp_path):
    network = load(fixtures.path("digits_mlp"))
    code, out, _ = ask("lipschitz", "digits_mlp", "--json", "--pair", 3, 5, "--certificate", tmp_path / "proof.npz")
    told = json.loads(out)
    assert code == 0 and told["hash"] == network.hash and told["lipschitz"]["evidence"] == "PROVED"
    assert told["lipschitz"]["value"] == pytest.approx(lipschitz(network, pair=(3, 5)).value, rel=1e-6)
    assert read_certificate(tmp_path / "proof.npz").value == pytest.approx(told["lipschitz"]["value"])
    code, out, _ = ask("lipschitz", "digits_mlp", "--method", "product", "--norm", "inf", "--layers", 1, 3)
    assert code == 0 and "product of norms" in out and "linf" in out
    assert ask("lipschitz", "digits_mlp", "--norm", "seven")[0] == 2
    assert ask("lipschitz", "digits_mlp", "--pair", 3, 30)[0] == 2
    assert ask("lipschitz", "digits_mlp", "--method", "product", "--certificate", tmp_path / "none.npz")[0] == 2


def test_digits_are_never_above_the_bound():
    network = load(fixtures.path("digits_mlp"))
    x = fixtures.digits().x[:200]
    y = network(x.reshape(-1, *network.input_shape)).reshape(len(x), -1)
    dx = np.linalg.norm((x[:, None] - x[None]).reshape(len(x), len(x), -1), axis=2)
    dy = np.linalg.norm(y[:, None] - y[None], axis=2)
    ratio = (dy[dx > 0] / dx[dx > 0]).max()
    sampled = max(operator_norm(j, 2, 2) for j in jacobians(network, 200, scale=1.0))
    assert max(ratio, sampled) <= lipschitz(network).value


EXACT = [
    {},
    {"pair": (0, 2)},
    {"norm": np.inf, "output_norm": 2},
    {"norm": np.inf, "output_norm": 1},
    {"norm": 2, "output_norm": 1},
    {"method": "layer"},
]


@pytest.mark.parametrize(
    ("options", "activation"),
    [*((options, Relu) for options in EXACT), ({}, lambda: GroupSort(1, 2)), ({}, lambda: LeakyRelu(0.1)), ({}, Tanh)],
)
def test_certificates_hold_in_exact_arithmetic_and_smaller_values_do_not(options, activation):
    network = mlp(gaussian((3, 6, 4, 3), 4), activation)
    certificate = lipschitz(network, **options).certificate
    assert recheck(certificate, network)
    assert not recheck(replace(certificate, value=certificate.value * (1 - 1e-4)), network)
    less = [f.copy() for f in certificate.factors]
    less[-1][0] = 0.0
    assert not recheck(replace(certificate, factors=tuple(less)), network)
    assert not recheck(replace(certificate, factors=certificate.factors[1:]), network)
    assert not recheck(replace(certificate, weights=-certificate.weights), network)


def test_certificates_belong_to_one_network():
    weights = gaussian((3, 6, 4, 3), 4)
    certificate = lipschitz(mlp(weights)).certificate
    weights[0][0, 0] *= 1 + 1e-15
    with pytest.raises(DataError, match="another network"):
        recheck(certificate, mlp(weights))
    wide = mlp(square(200, 2))
    with pytest.raises(UnsupportedError, match="too many"):
        recheck(replace(certificate, hash=wide.hash, factors=(np.ones(400),)), wide)


def test_residual_networks_and_dead_neurons_in_exact_arithmetic():
    network, _ = residual()
    assert recheck(lipschitz(network).certificate, network)
    weights = gaussian((3, 6, 3), 4)
    weights[0][2] = 0
    assert recheck(lipschitz(mlp(weights)).certificate, mlp(weights))


def test_whatever_multipliers_a_proof_accepts_exact_arithmetic_accepts_too():
    network = mlp(gaussian((3, 6, 4, 3), 4), lambda: GroupSort(1, 2))
    form = plant(network).reduced()
    rng = np.random.default_rng(0)
    start_factors = np.concatenate(start(form)[0])
    accepted = 0
    found = lipschitz(network).certificate
    for spread in (0.01, 0.1, 0.3, 1.0) * 10:
        factors = start_factors * np.exp(spread * rng.standard_normal(form.size))
        try:
            proof = prove(form, Norms(), factors, np.zeros(0), np.zeros(0))
        except NotVerified:
            continue
        accepted += 1
        assert recheck(replace(found, value=proof.value, factors=proof.factors), network)
    assert 5 < accepted < 40
