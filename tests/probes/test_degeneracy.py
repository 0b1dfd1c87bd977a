from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from ascertain.errors import DataError, InputError
from ascertain.evidence import Evidence
from ascertain.probes.degeneracy import degeneracy


def net(*layers, act=nn.ReLU):
    torch.manual_seed(0)
    parts = []
    for i, (a, b) in enumerate(pairwise(layers)):
        parts.append(nn.Linear(a, b, bias=False))
        if i < len(layers) - 2:
            parts.append(act())
    return nn.Sequential(*parts).double()


def data(n=1500, d=5):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:, -1] = 1
    return x


def dense_free(module, x):
    """P minus the rank of the whole Jacobian, row by row."""
    rows = []
    for k in range(module(x[:1]).numel()):
        for sample in x[:400]:
            grads = torch.autograd.grad(module(sample[None]).reshape(-1)[k], list(module.parameters()))
            rows.append(torch.cat([g.reshape(-1) for g in grads]))
    s = torch.linalg.svdvals(torch.stack(rows))
    return sum(p.numel() for p in module.parameters()) - int((s > 1e-9 * s[0]).sum())


def edit(module, layer, rows, value):
    with torch.no_grad():
        module[layer].weight[rows] = value(module[layer].weight)


def test_generic_network_has_one_rescaling_for_each_rectifier():
    found = degeneracy(net(5, 6, 2), data())
    assert found.free == 6 and found.kinds == dict.fromkeys(found.kinds, 0) | {"rescaling": 6}
    assert found.evidence is Evidence.BOUNDED and found.gap > 1e6
    assert str(found).startswith("6 free directions of 42 parameters, evidence BOUNDED: rescaling 6; gap")


def test_dependent_inputs_free_a_column_for_each_unit():
    x = data()
    x[:, 1] = 2 * x[:, 0]
    found = degeneracy(net(5, 6, 2), x)
    assert found.free == 12 and found.kinds["activations"] == 6 and found.kinds["rescaling"] == 6


def test_outputs_that_a_rank_one_reader_ignores():
    module = nn.Sequential(*net(5, 6, 3), *net(3, 1))
    found = degeneracy(module, data())
    assert found.free == dense_free(module, data()) == 21
    assert found.kinds["gradients"] == 12 and found.kinds["synchronised"] == 3 and found.kinds["unexplained"] == 0


@pytest.mark.parametrize(("outputs", "free", "coupled"), [(4, 12, 9), (2, 14, 6), (3, 12, 9), (1, 16, 3)])
def test_synchronised_units_count_by_the_ranks_of_both_sides(outputs, free, coupled):
    module = net(5, 6, outputs)
    with torch.no_grad():
        module[0].weight[:3, -1] += 50
    found = degeneracy(module, data())
    assert found.free == free == dense_free(module, data())
    assert found.kinds["synchronised"] == coupled and found.kinds["rescaling"] == 3 and found.kinds["unexplained"] == 0
    assert found.couplings[0].groups[-1] == (0, 1, 2) or (0, 1, 2) in found.couplings[0].groups


def test_parallel_units_fire_together():
    module = net(5, 6, 4)
    edit(module, 0, 1, lambda w: 2 * w[0])
    found = degeneracy(module, data())
    assert found.free == dense_free(module, data()) == 10 and found.kinds["unexplained"] == 0
    assert found.kinds["synchronised"] == 2 and found.kinds["activations"] == 4


def test_dead_units_free_all_that_they_touch():
    module = net(5, 6, 2)
    with torch.no_grad():
        module[0].weight[0] = 0
        module[0].weight[0, -1] = -1
    found = degeneracy(module, data())
    assert found.free == dense_free(module, data()) == 5 + 2 + 5 and found.kinds["unexplained"] == 0


def test_biases_depth_and_smooth_activations():
    torch.manual_seed(0)
    x = data(400, 3)
    deep = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    found = degeneracy(deep, x)
    assert found.free == dense_free(deep, x) == sum(v for k, v in found.kinds.items())
    smooth = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.randn(300, 3, dtype=torch.float64)
    assert degeneracy(smooth, x).free == 0 == dense_free(smooth, x)


@pytest.mark.parametrize(("widths", "act", "lift"), [
    ((5, 7, 6, 3), nn.ReLU, 0.0), ((5, 7, 6, 3), nn.ReLU, 9.0), ((4, 3, 2), nn.Identity, 0.0), ((3, 5, 4, 2), nn.Identity, 0.0),
    ((4, 6, 2), nn.ReLU, 9.0),
])  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_units_that_always_fire_exchange_their_constants_for_biases(widths, act, lift, seed):
    torch.manual_seed(seed)
    parts = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), act())]
    module = nn.Sequential(*parts[:-1]).double()
    with torch.no_grad():
        module[0].bias[:2] += lift
    x = torch.randn(400, widths[0], dtype=torch.float64)
    found = degeneracy(module, x)
    assert found.free == dense_free(module, x) == sum(found.kinds.values()) and found.kinds["unexplained"] == 0
    if lift and len(widths) == 3:
        assert found.kinds["synchronised"] == 2 * 3 and found.kinds["rescaling"] == 4  # two units and the constant


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_count_does_not_depend_on_units(scale):
    module = net(5, 6, 2)
    with torch.no_grad():
        module[0].weight *= scale
        module[2].weight /= scale**2
    assert degeneracy(module, data() * scale).free == 6


def test_layer_norm_and_convolution_count_as_other_parameters():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    x = data()
    x[:, -1] = torch.randn(len(x), dtype=torch.float64)
    found = degeneracy(module, x)
    assert found.free == dense_free(module, x) and "1.weight" in [layer.name for layer in found.layers]
    conv = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2, bias=False)).double()
    images = torch.randn(200, 1, 3, 3, dtype=torch.float64)
    assert degeneracy(conv, images).free == dense_free(conv, images) == 2


def test_float32_modules_are_counted_in_float64_and_left_alone():
    module = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
    module.train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = torch.get_rng_state()
    found = degeneracy(module, np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32))
    assert found.free == 6 and module.training and all(p.grad is None for p in module.parameters())
    assert torch.equal(state, torch.get_rng_state()) and all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert not module[0]._forward_hooks


def test_bad_input():
    with pytest.raises(DataError, match="NaN"):
        degeneracy(net(2, 2), torch.tensor([[float("nan"), 1.0]]))
    with pytest.raises(InputError, match="nothing to count"):
        degeneracy(nn.ReLU(), torch.ones(3, 2))
    with pytest.raises(DataError, match="samples interact"):
        degeneracy(Centred(), data())


class Centred(nn.Module):
    """Subtracts the mean over the batch: samples are not independent."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 2).double()

    def forward(self, x):
        y = self.layer(x)
        return y - y.mean(0) * 0.5


def test_too_few_samples_lower_the_evidence():
    found = degeneracy(net(5, 6, 2), data(8))
    assert found.rank <= 16 and found.evidence is Evidence.ESTIMATED


def test_dense_layers_that_are_never_called_count_as_other_parameters():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.encoder, self.head = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.encoder(x).mean(1))

    found = degeneracy(Encoder(), torch.randn(150, 3, 4))
    assert min(layer.joint for layer in found.layers) >= 0
    assert "encoder.self_attn.out_proj.weight" in [layer.name for layer in found.layers if not layer.inputs]
    assert sum(found.kinds.values()) == found.free
