"""The analyzers that look at layers, on shipped networks and against plain references."""

import numpy as np
import pytest
import torch

from ascertain import fixtures, load
from ascertain.analyze import Context, Need, analyze, figure_of, find, read_record
from ascertain.analyze.images import layout, pictures
from ascertain.analyze.layers import capture, cuts, drawn, layers
from ascertain.errors import DataError, InputError
from ascertain.graph import Builder
from ascertain.operators import Dense, Relu, Sum
from ascertain.probes.degeneracy import causes, degeneracy
from ascertain.probes.graph_module import GraphModule

NAMES = ["comparison", "convergence", "degeneracy", "dimension", "interaction", "lipschitz", "probing", "relevance", "similarity"]
NAMES += ["information", "weights"]


@pytest.fixture(scope="module")
def digits():
    images = fixtures.digits()
    return images.x[:120].astype(float), images.y[:120]


def context(net, digits, kind=None):
    graph = load(fixtures.path(net))
    pair = {"other": load(fixtures.path("digits_conv_sabr")), "trajectory": (graph, graph)}
    return Context(graph, *digits, **{k: v for k, v in pair.items() if kind and Need(k) in kind.needs})


@pytest.mark.parametrize("net", ["digits_mlp", "digits_conv"])
@pytest.mark.parametrize("name", NAMES)
def test_every_view_of_a_shipped_network_can_be_drawn(name, net, digits):
    kind = find(name)
    options = {"count": 20} if name == "lipschitz" else {}
    stored = read_record(analyze(kind(**options), context(net, digits, kind)).to_json())
    figures = [figure_of(view, stored) for view in kind().views(stored)]
    assert figures and any(f["finding"] and f["text"] for f in figures)


@pytest.mark.parametrize("net", fixtures.NAMES)
def test_modules_of_graphs_answer_as_the_graphs(net):
    graph = load(fixtures.path(net))
    x = np.random.default_rng(0).normal(size=(3, *graph.input_shape))
    before = torch.get_rng_state()
    module = GraphModule(graph)
    assert torch.equal(before, torch.get_rng_state())
    assert np.allclose(module(torch.tensor(x)).detach().numpy(), graph(x), rtol=1e-9, atol=1e-9)


def test_weights_of_a_recurrence_are_one_parameter():
    graph = load(fixtures.path("lstm_rows"))
    module = GraphModule(graph)
    trained = sum(p.numel() for p in fixtures.build("lstm_rows").parameters())
    assert sum(p.numel() for p in module.parameters()) <= trained
    calls = sum(1 for node in graph.nodes if isinstance(node.operator, Dense))
    assert calls > len([m for m in module.modules() if isinstance(m, torch.nn.Linear)])


def branched():
    """Input, a branch around one layer, sum, rectifier, answer."""
    build = Builder()
    x = build.input((1, 2))
    build.scope = "in"
    first = build(Relu(), x)
    build.scope = "branch"
    branch = build(Dense(np.ones((2, 2))), first)
    build.scope = "sum"
    total = build(Sum((1.0, 1.0)), first, branch)
    build.scope = "out"
    return build.graph(x, build(Dense(np.ones((3, 2))), total))


def test_layers_that_nothing_passes_by():
    graph = branched()
    assert [graph.nodes[i].name for i in cuts(graph, 10, 10)] == ["input", "in", "sum", "out"]
    assert [graph.nodes[i].name for i in cuts(graph, 2, 10)] == ["input", "in", "sum"]
    assert len(cuts(graph, 10, 2)) == 2
    assert layers(graph, 10) == ("input", "in", "sum", "out") and layers(graph, 2) == ("input", "out")
    with pytest.raises(InputError, match="at least 2"):
        layers(graph, 1)


def test_constant_layers_are_left_out():
    graph = branched()
    found = capture(graph, ("input", "in"), -np.random.default_rng(0).uniform(1, 2, (8, 1, 2)))
    assert tuple(found) == ("input",)
    with pytest.raises(DataError, match="all layers are constant"):
        capture(graph, ("input", "in"), np.ones((8, 1, 2)))


def test_inputs_are_drawn_under_the_seed(digits):
    one = context("digits_mlp", digits)
    assert len(drawn(one, 5)) == 5 and len(drawn(one, 500)) == 120 and np.array_equal(drawn(one, 5), drawn(one, 5))
    with pytest.raises(InputError, match="positive"):
        drawn(one, 0)


def test_which_inputs_are_images():
    assert layout((1, 64)) == (1, 8, 8) and layout((64,)) == (1, 8, 8) and layout((1, 3, 16, 16)) == (3, 16, 16)
    assert layout((1, 4)) is None and layout((1, 60)) is None and layout((1, 8, 8)) == (1, 8, 8) and layout((1, 2, 31)) is None
    found = pictures((1, 3, 4, 4), {"image": (np.arange(48.0).reshape(1, 48), "it")}, ["one"])
    assert found["image"].value.shape == (1, 4, 4, 3) and found["image"].value[0, 0, 0].tolist() == [0, 16, 32]


def test_a_lower_bound_is_true_at_kinks_too():
    """x + relu(-x) - relu(x) + x is 2 x - |x| - ... of slope 1 everywhere, where automatic derivatives at 0 say 2."""
    build = Builder()
    x = build.input((1, 1))
    parts = build(Relu(), build(Dense(np.array([[1.0], [-1.0]])), x))
    twice = build(Dense(np.array([[2.0]])), x)
    graph = build.graph(x, build(Sum((1.0, 1.0)), build(Dense(np.array([[-1.0, 1.0]])), parts), twice))
    assert graph(np.array([[[3.0]], [[-3.0]]])).reshape(-1).tolist() == [3.0, -3.0]
    found = analyze(find("lipschitz")(), Context(graph, np.zeros((3, 1))))
    assert found["slopes"].max() == 2 and found["lower"] <= 1 and found["upper"] >= 1


@pytest.mark.parametrize("net", ["digits_mlp", "digits_conv"])
def test_bounds_of_the_lipschitz_constant_are_in_order(net, digits):
    found = analyze(find("lipschitz")(count=20), context(net, digits))
    assert 0 < found["lower"] <= found["upper"] <= found["product"]
    graph, random = load(fixtures.path(net)), np.random.default_rng(0)
    a, b = random.normal(size=(2, 500, *graph.input_shape))
    rise = np.linalg.norm((graph(a) - graph(b)).reshape(500, -1), axis=1)
    assert (rise <= found["upper"] * np.linalg.norm((a - b).reshape(500, -1), axis=1)).all()


def test_causes_without_the_jacobian_are_those_with_it():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    net[2].weight.data[3] = 0
    x = torch.randn(150, 4, dtype=torch.float64) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    whole, (few, couplings) = degeneracy(net, x), causes(net, x)
    assert couplings == whole.couplings
    for one, other in zip(whole.layers, few, strict=True):
        assert (one.from_activations, one.from_gradients) == (other.from_activations, other.from_gradients)
        assert one.rank <= other.rank and other.joint == 0


@pytest.mark.parametrize("net", ["digits_conv", "lstm_rows"])
def test_relevance_and_what_biases_take_sum_up_to_the_output(net, digits):
    found = analyze(find("relevance")(), context(net, digits))
    assert np.allclose(found["from_inputs"] + found["from_biases"] + found["lost"], found["output"], atol=1e-9)
    assert (found["bias_share"] >= 0).all() and (found["bias_share"] <= 1).all()


def test_probes_need_several_classes(digits):
    with pytest.raises(DataError, match="several classes"):
        analyze(find("probing")(), Context(load(fixtures.path("digits_mlp")), digits[0], np.zeros(120, int)))


def test_checkpoints_of_different_networks_have_no_convergence(digits):
    one, other = (load(fixtures.path(n)) for n in ("digits_mlp", "digits_conv"))
    with pytest.raises(InputError, match="different layers"):
        analyze(find("convergence")(), Context(one, *digits, trajectory=(one, other)))


def test_the_coefficient_of_few_draws_comes_with_cautions(digits):
    asked = find("learning")(count=30, chains=2, draws=20, burn_in=100)
    found = analyze(asked, context("digits_mlp", digits))
    assert "take more" in str(found["cautions"])
    figures = [figure_of(view, found) for view in type(asked)().views(found)]
    assert "Caution" in figures[0]["text"] and set(figures[1]["channels"]) == {"x", "chain 1", "chain 2"}


def moved(axes, shift):
    """One layer that shows an axis of the data, and one after it that is turned by a shift."""
    build = Builder()
    x = build.input((1, 2))
    build.scope = "early"
    first = build(Dense(np.eye(2)[list(axes)]), x)
    build.scope = "late"
    return build.graph(x, build(Dense(np.array([[1.0, shift]])), first))


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([((0, 1), 0.0)] * 3, "All layers have their final form (CKA with the last of at least 0.98) from checkpoint 1 of 3 on."),
        (
            [((0, 1), 9.0), ((0, 1), 9.0), ((0, 1), 0.0)],
            "early has its final form from checkpoint 1 of 3 on (CKA with the last of at least 0.98), late not before the last.",
        ),
        (
            [((0, 0), 0.0), ((0, 1), 9.0), ((0, 1), 0.0), ((0, 1), 0.0)],
            "early has its final form from checkpoint 2 of 4 on (CKA with the last of at least 0.98), late only from 3 on.",
        ),
    ],
)
def test_which_layer_converges_first_and_which_last(steps, sentence):
    x = np.random.default_rng(0).normal(size=(100, 2))
    graphs = tuple(moved(*step) for step in steps)
    found = analyze(find("convergence")(), Context(graphs[-1], x, trajectory=graphs))
    (finding,) = [f for f in (figure_of(v, found) for v in find("convergence")().views(found)) if f["finding"]]
    assert finding["text"] == sentence and finding["evidence"] == "ESTIMATED"
    none = analyze(find("convergence")(cka_level=1.5), Context(graphs[-1], x, trajectory=graphs))
    assert not [v for v in find("convergence")().views(none) if v.finding], "a level that nothing reaches"


def test_what_the_last_layer_keeps_is_said_with_its_bounds(digits):
    from ascertain.analyze.report.numbers import intervals

    found = analyze(find("information")(count=50), context("digits_mlp", digits))
    assert found["last_labels"] == found["labels"][-1] and found["last_inputs"] == found["inputs"][-1]
    assert str(found["last"]) == found["layer"][-1]
    (view,) = [v for v in find("information")().views(found) if v.finding]
    text = figure_of(view, found)["text"]
    assert text.startswith(
        f"Under noise, {found['last']} tells {found['last_labels']:.2f} of the {found['most_labels']:.2f} bits in"
    )
    assert [w.split()[0] for w in intervals(view, found)] == ["bounds", "bounds"], "no confidence is claimed of bounds"
