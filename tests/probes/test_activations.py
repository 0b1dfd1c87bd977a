"""Capture: rows as torch gives them, one pass, and a network that does not notice."""

import copy
import random
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ascertain import load
from ascertain.errors import AscertainError, DataError, ModelError, ResourceError, ShapeError
from ascertain.probes.activations import FewSamplesWarning, activations
from ascertain.probes.canonical import CCA, PWCCA, SVCCA
from ascertain.probes.dictionaries import reconstruction_error
from ascertain.probes.dimension import dimension
from ascertain.probes.geometry import Procrustes
from ascertain.probes.kernels import CKA
from ascertain.probes.linear_probes import linear_probe
from ascertain.probes.similarity import similarity, similarity_map

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*CCA of all directions.*")


def convolutional():
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4 * 36, 5))


def images(n=40):
    return torch.randn(n, 2, 6, 6, generator=torch.Generator().manual_seed(1))


class Counter(nn.Module):
    """Changes a buffer and draws random numbers at every call."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 7)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.linear(x) + 0 * torch.rand(()) + 0 * np.random.rand()


def everything(net):
    """All that a user could see of a module."""
    return {
        "modes": [part.training for part in net.modules()],
        "state": {name: value.clone() for name, value in net.state_dict().items()},
        "grads": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "wanted": [p.requires_grad for p in net.parameters()],
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks) for part in net.modules()],
        "names": [sorted(vars(part)) for part in net.modules()],
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("make", "data"), [(convolutional, images()), (Counter, torch.randn(20, 3))])
def test_the_network_is_left_as_it_was(make, data, mixed):
    net = make().train()
    if mixed:
        list(net.modules())[-1].eval()
        net.register_forward_hook(lambda *_: None)
        next(net.parameters()).grad = torch.ones_like(next(net.parameters()))
        next(net.parameters()).requires_grad_(False)
    before = everything(net)
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    fused = torch.backends.mha.get_fastpath_enabled()
    activations(net, None, data)
    for wrong in (["nowhere"], []):
        with pytest.raises(ModelError):
            activations(net, wrong, data)
    with pytest.raises(ShapeError):
        activations(net, None, torch.zeros(8, 11))
    activations(net, None, DataLoader(TensorDataset(data), batch_size=9, shuffle=True))
    assert same(before, everything(net))
    assert torch.equal(states[0], torch.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate() and fused == torch.backends.mha.get_fastpath_enabled() and torch.is_grad_enabled()
    copy.deepcopy(net)
    for kept in (net.train(),):
        kept(data).sum().backward()


def test_rows_are_what_torch_computes_in_evaluation_mode():
    net, x = convolutional().train(), images()
    found = activations(net, None, x, batch_size=7)
    wanted = x
    with torch.no_grad():
        for name, part in copy.deepcopy(net).eval().named_children():
            wanted = part(wanted.clone())
            rows = wanted.movedim(1, -1).reshape(-1, wanted.shape[1]) if wanted.ndim == 4 else wanted
            np.testing.assert_allclose(found[name], rows, atol=1e-6)
    assert list(found) == ["0", "1", "2", "3", "4", "5"] and found.places["0"] == 36 and found.places["5"] == 1
    assert (found["1"] < 0).any() and (found["2"] >= 0).all()  # the activation works in place
    with pytest.raises(ValueError, match="read-only"):
        found["0"][0] = 1


def test_maps_become_rows_as_asked():
    net, x = convolutional(), images()
    positions = activations(net, ["0"], x)["0"].reshape(40, 6, 6, 4)
    flat = activations(net, ["0"], x, maps="flattened")["0"]
    np.testing.assert_array_equal(flat, np.moveaxis(positions, -1, 1).reshape(40, -1))
    pooled = activations(net, ["0", "5"], x, maps="resized", grid=2)
    wanted = positions.reshape(40, 2, 3, 2, 3, 4).mean((2, 4)).reshape(-1, 4)
    np.testing.assert_allclose(pooled["0"], wanted, atol=1e-6)
    assert pooled.places == {"0": 4, "5": 1}
    swapped = activations(net, ["0"], x, channels={"0": 3})["0"]
    np.testing.assert_array_equal(swapped.reshape(40, 4, 6, 6), np.moveaxis(positions, -1, 1))


@pytest.mark.parametrize("kind", ["array", "tensor", "loader", "dataset", "generator", "dicts"])
def test_data_come_in_many_forms(kind):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = convolutional()

        def forward(self, pixels):
            return self.net(pixels)

    net, x = Named(), images()
    forms = {
        "array": x.numpy(),
        "tensor": x,
        "loader": DataLoader(TensorDataset(x, torch.arange(40)), batch_size=7),
        "dataset": TensorDataset(x),
        "generator": (x[i : i + 1] for i in range(40)),
        "dicts": [{"pixels": x[:30]}, {"pixels": x[30:]}],
    }
    found = activations(net, ["net.5"], forms[kind])
    np.testing.assert_allclose(found["net.5"], activations(net, ["net.5"], x)["net.5"], atol=1e-6)


class Recurrent(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.cells, self.head, self.first = nn.LSTM(5, 7, batch_first=batch_first), nn.Linear(7, 3), batch_first

    def forward(self, x):
        y, _ = self.cells(x if self.first else x.transpose(0, 1))
        y = self.head(self.head.weight.new_zeros(()) + y)
        return y if self.first else y.transpose(0, 1)


@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_states_whatever_axis_holds_the_samples(batch_first):
    net, x = Recurrent(batch_first), torch.randn(20, 20, 5)  # as many steps as samples
    found = activations(net, ["cells", "cells:1.0", "cells:1.1", "output"], x)
    with torch.no_grad():
        y, (h, c) = net.cells(x if batch_first else x.transpose(0, 1))
    np.testing.assert_allclose(found["cells"], (y if batch_first else y.transpose(0, 1)).reshape(-1, 7), atol=1e-6)
    np.testing.assert_allclose(found["cells:1.0"], h[0], atol=1e-6)
    np.testing.assert_allclose(found["cells:1.1"], c[0], atol=1e-6)
    assert found["output"].shape == (400, 3) and found.places["cells"] == 20 and found.places["cells:1.0"] == 1


def test_parts_of_a_fused_encoder_and_repeated_calls():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    found = activations(encoder, None, torch.randn(10, 4, 8))
    assert found["layers.1.linear1"].shape == (40, 16) and found["layers.0.self_attn"].shape == (40, 8)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.relu = nn.Linear(3, 3), nn.ReLU()

        def forward(self, x):
            return self.relu(self.a(self.relu(self.a(x))))

    net, x = Twice(), torch.randn(9, 3)
    found = activations(net, None, x)
    assert list(found) == ["a", "relu", "a#2", "relu#2"]
    np.testing.assert_array_equal(found["relu#2"], activations(net, ["output"], x)["output"])


def test_a_graph_answers_like_its_module():
    net, x = convolutional().eval(), images()
    graph = load(net, input_shape=(1, 2, 6, 6))
    mine, theirs = activations(net, None, x), activations(graph, None, x)
    names = [name for name in theirs if name.startswith(("conv", "relu", "linear"))]
    for name, part in zip(names, ("0", "2", "5"), strict=True):
        np.testing.assert_allclose(theirs[name], mine[part], atol=1e-5)
    with pytest.raises(ModelError, match="conv2d"):
        activations(graph, ["conv"], x)


def test_moments_are_those_of_the_rows():
    net, x = convolutional(), images()
    rows = activations(net, ["0", "2"], x)
    moments = activations(net, ["0", "2"], x, keep="moments", batch_size=7)
    both = np.concatenate([rows["0"], rows["2"]], 1).astype(float)
    np.testing.assert_allclose(moments.mean, both.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(moments.covariance, (both - both.mean(0)).T @ (both - both.mean(0)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(moments.cross("0", "2"), moments.covariance[:4, 4:])
    assert moments.samples == 40 and moments.count == 40 * 36
    for measure in (CKA(debiased=False), CCA(), SVCCA(), PWCCA(), Procrustes()):
        ours, wanted = similarity_map(moments, measure=measure), similarity_map(rows, measure=measure, groups=0, shuffles=0)
        np.testing.assert_allclose(ours.values, wanted.values, atol=1e-6)
        assert "keep='arrays'" in ours.notes[0] and (ours.low == measure.limits[0]).all()
    with pytest.raises(DataError, match="keep='arrays'"):
        similarity_map(moments)


def test_the_budget_is_kept():
    net = convolutional()
    with pytest.raises(ResourceError, match="moments"):
        activations(net, None, images(), memory=1e4)
    with pytest.raises(ResourceError):
        activations(net, None, (images(4) for _ in range(100)), memory=1e5)
    with pytest.raises(ResourceError, match="149 features"):
        activations(net, ["4", "5"], images(), keep="moments", memory=1e5)


@pytest.mark.parametrize("form", ["array", "generator"])
def test_nothing_is_held_twice(form):
    net, x = nn.Linear(8, 500), torch.randn(6000, 8)
    data = x if form == "array" else (x[i : i + 50] for i in range(0, 6000, 50))
    activations(net, ["output"], x[:50])
    tracemalloc.start()
    found = activations(net, ["output"], data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["output"].nbytes == 12e6 and peak < 12e6 * (1.3 if form == "array" else 1.7)  # room to grow is not yet written


def test_shuffled_captures_are_matched_by_their_inputs():
    """A loader that shuffles gave CKA -0.0098 for identical networks in a public library."""
    net, x = convolutional().eval(), images(60)
    data = TensorDataset(x, torch.zeros(60))
    loader = partial(DataLoader, data, batch_size=9, shuffle=True)
    first = activations(net, None, loader(generator=torch.Generator().manual_seed(0)), maps="flattened")
    second = activations(copy.deepcopy(net), None, loader(generator=torch.Generator().manual_seed(1)), maps="flattened")
    assert not np.array_equal(first["5"], second["5"])
    np.testing.assert_allclose(np.diag(similarity_map(first, second, groups=0).values), 1.0, atol=1e-5)
    np.testing.assert_allclose(second.matching(first)["0"], first["0"], atol=1e-5)
    with pytest.raises(DataError, match="different inputs"):
        similarity_map(first, activations(net, None, x + 1, maps="flattened"))
    assert len(net._forward_hooks) == 0


def broken(kind):
    net, x = convolutional(), images()
    if kind == "nan weights":
        nn.init.constant_(net[5].weight, np.nan)
    return {
        "nearest": (net, ["5x"], x, ModelError, "'5'"),
        "nan weights": (net, None, x, DataError, "layer '5'"),
        "nan data": (net, None, torch.full((9, 2, 6, 6), np.nan), DataError, "NaN"),
        "few": (net, None, x[:3], DataError, "below 4"),
        "few batches": (net, None, [x[:2]], DataError, "2 samples"),
        "none": (net, None, [], DataError, "no batch"),
        "shape": (net, None, torch.randn(9, 3, 6, 6), ShapeError, "does not accept"),
        "a name": (net, "5", x, ModelError, "list of names"),
        "no net": (print, None, x, ModelError, "cannot be read"),
        "no data": (net, None, 3, DataError, "iterable"),
        "numbers": (net, None, [1.0, 2.0], DataError, "no samples"),
        "ragged": (net, None, [x, torch.randn(4, 2, 6, 7)], AscertainError, "does not accept"),
        "scalar": (net, None, torch.tensor(1.0), DataError, "below 4"),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    "nearest|nan weights|nan data|few|few batches|none|shape|a name|no net|no data|numbers|ragged|scalar".split("|"),  # noqa: SIM905
)
def test_bad_input_is_named(kind):
    net, layers, data, error, text = broken(kind)
    with pytest.raises(error, match=text):
        activations(net, layers, data)


@pytest.mark.parametrize("options", [{"maps": "pooled"}, {"keep": "all"}, {"grid": 0}, {"batch_size": 0}, {"channels": {"9": 1}}])
def test_bad_options_are_named(options):
    with pytest.raises(AscertainError):
        activations(convolutional(), None, images(), **options)


def test_several_devices_and_merged_samples_are_refused():
    net = convolutional()
    net[5].to("meta")
    with pytest.raises(ModelError, match=r"5\.weight on meta"):
        activations(net, None, images())

    class Merged(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(x.reshape(-1, 3)).reshape(len(x), -1)

    with pytest.raises(ShapeError, match="'inner'"):
        activations(Merged(), ["inner"], torch.randn(8, 4, 3))


def test_layers_that_cannot_be_read_are_named():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x):
            return {"answer": self.used(x), "more": [x, x + 1]}

    net, x = Unused(), torch.randn(8, 3)
    assert list(activations(net, None, x)) == ["used"]
    np.testing.assert_array_equal(activations(net, ["output:more.1"], x)["output:more.1"], x + 1)
    with pytest.raises(ModelError, match="'spare' is not called"):
        activations(net, ["spare"], x)
    with pytest.raises(ModelError, match="'used:1'"):
        activations(net, ["used:1"], x)
    with pytest.raises(ModelError, match=r"torch\.jit"):
        activations(torch.jit.trace(nn.Linear(3, 4), x), None, x)


class Tables(nn.Module):
    """Parametrised weights, and tables that know nothing of samples."""

    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(3, 5))
        self.positions, self.last = nn.Embedding(4, 5), nn.utils.parametrizations.spectral_norm(nn.Linear(5, 2))

    def forward(self, x):
        return {"scores": self.last(self.first(x) + self.positions(torch.arange(4)))}


def test_all_layers_leave_out_what_has_no_samples():
    torch.manual_seed(0)
    net, x = Tables().train(), torch.randn(20, 4, 3)
    before = everything(net)
    assert list(activations(net, None, x)) == ["first", "last"]
    assert same(before, everything(net))
    with pytest.raises(ShapeError, match="'positions' answers shape"):
        activations(net, ["positions"], x)
    with pytest.raises(ModelError, match="no layer of Sequential"):
        activations(nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (2, -1)), nn.Flatten(0)), ["0"][:0] or None, torch.randn(20, 6))


def test_a_module_that_is_to_be_compiled():
    net, x = convolutional(), images()
    np.testing.assert_array_equal(activations(torch.compile(net), ["0"], x)["0"], activations(net, ["0"], x)["0"])


def test_narrow_numbers_are_widened():
    net, x = nn.Linear(3, 4), torch.randn(8, 3)
    assert activations(net.to(torch.bfloat16), ["output"], x)["output"].dtype == np.float32
    assert activations(net.double(), ["output"], x)["output"].dtype == np.float64


def test_few_samples_are_warned_of():
    with pytest.warns(FewSamplesWarning, match="144 features"):
        activations(convolutional(), None, images(), maps="flattened")


def test_rows_know_how_many_of_them_belong_to_a_sample():
    """Positions of one image are no samples of their own: taken for such, they make intervals too narrow."""
    torch.manual_seed(0)
    net, labels = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 1)), np.arange(40) % 2
    acts = activations(net, ["0", "2"], images())
    first, second = acts["0"], acts["2"]
    assert first.places == 16 and np.asarray(first).base is not None and not first.flags.writeable
    plain = np.array(first), np.array(second)
    for measure in (CKA(), CCA()):
        found, wanted = similarity(first, second, measure), similarity(*plain, measure, places=16)
        assert (found.low, found.high, found.null_mean, found.samples) == (wanted.low, wanted.high, wanted.null_mean, 40)
        careless = similarity(*plain, measure)
        assert careless.samples == 640 and careless.high - careless.low != found.high - found.low
    assert similarity(first, plain[1]).samples == 40 and similarity(first, second, places=1).samples == 640
    assert dimension(first).samples == linear_probe(first, labels).samples == 40
    assert reconstruction_error(first, 0.5 * first).samples == 40
    for derived in (first[:32], first * 2, first.mean(0), copy.copy(first)):
        assert derived.places == 1
    assert torch.equal(torch.as_tensor(first), torch.from_numpy(plain[0]))


def test_complex_values_and_words_are_refused():
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x)

    with pytest.raises(ShapeError, match="'0' answers complex numbers"):
        activations(nn.Sequential(Spectrum()), ["0"], torch.randn(9, 3))
    with pytest.raises(DataError, match="not numbers"):
        activations(nn.Sequential(nn.Linear(3, 2)), None, np.array([["a"] * 3] * 9))
