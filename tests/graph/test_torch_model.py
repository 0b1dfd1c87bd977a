"""Modules, exported programs and checkpoints: equal to torch, the module left alone, nothing executed."""

import importlib.util
import io
import os
import zipfile

import numpy as np
import pytest

from ascertain.errors import ModelError, UnsupportedError
from ascertain.graph import load, lower

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


class Forward(nn.Module):
    """A module written as one function, with layers by name."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3))


def residual():
    def forward(m, x):
        y = m.act(m.norm(m.first(x)))
        return F.relu(m.second(y) + m.short(x))

    layers = {
        "first": nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
        "norm": nn.BatchNorm2d(4),
        "act": nn.ReLU(inplace=True),
        "second": nn.Conv2d(4, 4, 3, padding=1, groups=2),
        "short": nn.Conv2d(2, 4, 1, stride=2),
    }
    return Forward(forward, **layers)


def in_place(m, x):
    y = m.line(x)
    z = y + 1
    y.relu_()
    z.add_(y)
    return F.relu(z, inplace=True) - y


CASES = {
    "mlp": (mlp, (1, 2, 2)),
    "residual": (residual, (1, 2, 6, 6)),
    "avgpool": (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(2, 3, 2)), (1, 2, 6, 6)),
    "adaptive": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)), (1, 2, 5, 5)),
    "maxpool": (lambda: nn.Sequential(nn.MaxPool2d(2), nn.ReLU()), (1, 2, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), (1, 2, 3, 3)),
    "dilated": (lambda: nn.Conv1d(2, 3, 3, dilation=2, padding=2), (1, 2, 7)),
    "slices": (lambda: Forward(lambda m, x: x[:, 1:5:2] - x[:, :2]), (1, 6)),
    "cat": (lambda: Forward(lambda m, x: torch.cat([x[:, 3:], F.relu(x), x[:, :1]], 1)), (1, 5)),
    "constant": (lambda: Forward(lambda m, x: x * torch.arange(3.0) + torch.zeros_like(x) + torch.ones(3).sum()), (1, 3)),
    "prelu": (lambda: nn.PReLU(3, init=-0.2), (1, 3, 2)),
    "leaky": (lambda: nn.LeakyReLU(0.1), (1, 4)),
    "hardtanh": (lambda: nn.Sequential(nn.Hardtanh(-0.5, 0.7), nn.ReLU6()), (1, 4)),
    "hardsigmoid": (lambda: nn.Hardsigmoid(), (1, 4)),
    "clamp": (lambda: Forward(lambda m, x: x.clamp(min=-0.3).abs()), (1, 4)),
    "views": (lambda: Forward(lambda m, x: x.view(1, 2, 6).permute(0, 2, 1).reshape(3, 4).transpose(0, 1).unsqueeze(0)), (1, 3, 4)),
    "minmax": (lambda: Forward(lambda m, x: torch.maximum(x[:, :2], x[:, 2:]) - torch.minimum(x[:, :2], x[:, 2:])), (1, 4)),
    "split": (lambda: Forward(lambda m, x: (lambda a, b: b - 2 * a)(*x.chunk(2, 1))), (1, 6)),
    "mean": (lambda: Forward(lambda m, x: x.mean((2, 3)) + x.sum((2, 3))), (1, 2, 3, 3)),
    "padding": (lambda: nn.Sequential(nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(1, 2, 2)), (1, 1, 3, 3)),
    "upsample": (lambda: nn.Upsample(scale_factor=2), (1, 2, 3, 3)),
    "normalised": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()), (1, 3)),
    "in place": (lambda: Forward(in_place, line=nn.Linear(3, 4)), (1, 3)),
    "identity": (lambda: Forward(lambda m, x: x), (1, 3)),
}


def randomised(module):
    """Running statistics that are no default."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.2, 3.0, generator=generator)
    return module


@pytest.mark.parametrize("name", CASES)
def test_equals_the_module_and_leaves_it_alone(name):
    make, shape = CASES[name]
    torch.manual_seed(0)
    module = randomised(make()).train()
    for part in list(module.children())[:1]:
        part.eval()
    flags = [part.training for part in module.modules()]
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = torch.get_rng_state()
    graph = load(module, input_shape=shape)
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    reference = np.stack([graph.source.replay(p) for p in x])
    assert flags == [part.training for part in module.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert graph.input_shape == shape
    assert np.allclose(graph(x).reshape(3, -1), reference, atol=1e-5)
    double = x.astype(np.float64)
    assert np.allclose(graph(double).reshape(3, -1), reference, atol=1e-5)
    assert np.allclose(graph(torch.tensor(double)).reshape(3, -1).numpy(), graph(double).reshape(3, -1), atol=1e-12)
    assert np.allclose(lower(graph)(double), graph(double), atol=1e-12)


def test_weights_are_copied():
    module = nn.Linear(2, 2)
    graph = load(module, input_shape=(1, 2))
    before = graph(np.ones((1, 1, 2)))
    with torch.no_grad():
        module.weight.zero_()
    assert np.array_equal(graph(np.ones((1, 1, 2))), before)


def test_outputs_by_key():
    module = Forward(lambda m, x: {"a": m.line(x), "b": (x + 1, x * 2)}, line=nn.Linear(3, 2))
    x = np.ones((1, 1, 3))
    assert load(module, input_shape=(1, 3)).output_shape == (1, 2)
    graph = load(module, input_shape=(1, 3), output="b.1")
    assert graph(x).ravel().tolist() == [2, 2, 2] == graph.source.replay(x[0]).tolist()
    with pytest.raises(ModelError, match=r"no output 'c'.*'b\.0'"):
        load(module, input_shape=(1, 3), output="c")


def test_modules_that_cannot_be_read():
    with pytest.raises(ModelError, match="input_shape"):
        load(mlp())
    with pytest.raises(ModelError, match="cannot be traced"):
        load(mlp(), input_shape=(1, 7))
    with pytest.raises(ModelError, match="cannot be traced"):
        load(Forward(lambda m, x: x if x.sum() > 0 else -x), input_shape=(1, 7))
    with pytest.raises(ModelError, match="does not depend"):
        load(Forward(lambda m, x: torch.ones(3)), input_shape=(1, 3))
    with pytest.raises(ModelError, match="one of them"):
        load(mlp(), input_shape=(1, 4), example=np.zeros((1, 4)))


def test_unsupported_operators_keep_their_names():
    module = Forward(lambda m, x: torch.special.bessel_j0(torch.lgamma(x)) + torch.rand(3))
    with pytest.raises(UnsupportedError) as caught:
        load(module, input_shape=(1, 3))
    assert {"lgamma.default", "special_bessel_j0.default"} <= {o for o, _ in caught.value.operators}
    with pytest.raises(UnsupportedError, match="random"):
        load(Forward(lambda m, x: x + torch.rand(3)), input_shape=(1, 3))


def test_writing_through_a_view_is_never_overlooked():
    def forward(m, x):
        y = x + 1
        y[:, :2].mul_(3.0)
        return y

    try:
        graph = load(Forward(forward), input_shape=(1, 3))
    except UnsupportedError:
        return
    assert graph(np.ones((1, 1, 3))).ravel().tolist() == [6, 6, 2]


def test_weights_that_are_not_finite_are_named():
    module = mlp()
    with torch.no_grad():
        module[4].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"'4\.weight'.*NaN"):
        load(module, input_shape=(1, 4))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    module = mlp().eval()
    torch.save(module.state_dict(), tmp_path / "m.pt")
    torch.save({"arch": "mlp", "state_dict": module.state_dict()}, tmp_path / "nested.pth")
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(module.state_dict(), tmp_path / "m.safetensors")
    example = (torch.zeros(2, 2, 2),)
    torch.export.save(torch.export.export(module, (example[0][:1],)), tmp_path / "m.pt2")
    free = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(module, example, dynamic_shapes=free), tmp_path / "free.pt2")
    return module


@pytest.mark.parametrize("name", ["m.pt", "nested.pth", "m.safetensors", "m.pt2", "free.pt2"])
def test_files_give_the_network_of_the_module(saved, tmp_path, name):
    options = {} if name.endswith("pt2") else {"factory": mlp, "input_shape": (1, 2, 2)}
    graph = load(tmp_path / name, **options)
    assert graph.hash == load(saved, input_shape=(1, 2, 2)).hash
    assert graph.source.path == tmp_path / name and len(graph.source.digest) == 64
    x = np.random.default_rng(0).normal(size=(1, 2, 2)).astype(np.float32)
    assert np.allclose(graph.source.replay(x), graph(x[None]).ravel(), atol=1e-6)


def test_factories(saved, tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(4, 2)\nnumber = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "line.pt")
    assert load(tmp_path / "line.pt", factory="my_networks:make", input_shape=(1, 4)).output_shape == (1, 2)
    for factory, words in [
        (None, "factory="),
        ("my_networks:nothing", "cannot be found"),
        ("my_networks:number", "no function"),
        ("no_such_package_:make", "cannot be found"),
        ("make", "cannot be found"),
        (lambda: 3, "not a torch module"),
        (lambda: nn.Linear(4, 3), "do not fit"),
        (mlp, "do not fit"),
    ]:
        with pytest.raises(ModelError, match=words):
            load(tmp_path / "line.pt", factory=factory, input_shape=(1, 4))


@pytest.mark.parametrize("name", ["m.pt", "m.pth"])
def test_pickles_with_code_are_refused(tmp_path, name):
    torch.save({"weight": Evil(str(tmp_path / "made"))}, tmp_path / name)
    with pytest.raises(ModelError, match="code"):
        load(tmp_path / name, factory=mlp, input_shape=(1, 4))
    torch.save(nn.Linear(2, 2), tmp_path / name)
    with pytest.raises(ModelError, match="code"):
        load(tmp_path / name, factory=mlp, input_shape=(1, 4))
    assert not (tmp_path / "made").exists()


def rewritten(source, target, edit):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, edit(name, old.read(name)))


def test_programs_with_code_are_refused(saved, tmp_path):
    buffer = io.BytesIO()
    torch.save(Evil(str(tmp_path / "made")), buffer)
    call = f"x=__import__('os').mkdir('{tmp_path / 'made'}')".encode()
    edits = [
        lambda name, data: buffer.getvalue() if "sample_inputs" in name else data,
        lambda name, data: buffer.getvalue() if "weight_0" in name else data,
        lambda name, data: data.replace(b'"x"', b'"' + call + b'"').replace(b'"input"', b'"' + call + b'"'),
        lambda name, data: data.replace(b"Symbol(", b"__import__('os').mkdir("),
    ]
    for i, edit in enumerate(edits):
        source = tmp_path / ("free.pt2" if i == 3 else "m.pt2")
        rewritten(source, tmp_path / "bad.pt2", edit)
        with pytest.raises(ModelError):
            load(tmp_path / "bad.pt2")
        assert not (tmp_path / "made").exists()
    rewritten(tmp_path / "m.pt2", tmp_path / "good.pt2", lambda name, data: data)
    load(tmp_path / "good.pt2")
    with zipfile.ZipFile(tmp_path / "good.pt2", "a") as archive:
        archive.writestr("good/data/aotinductor/model/code.so", b"")
    with pytest.raises(ModelError, match="compiled code"):
        load(tmp_path / "good.pt2")


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors", "m.pt2"])
def test_broken_files(saved, tmp_path, name):
    data = (tmp_path / name).read_bytes()
    r = np.random.default_rng(0)
    for broken in (b"", data[: len(data) // 2], data[:50], r.bytes(500)):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(ModelError):
            load(tmp_path / name, factory=mlp, input_shape=(1, 4))


@pytest.mark.parametrize("name", ["mlp_relu", "conv_relu", "resnet_relu"])
def test_reference_networks(shared, name):
    folder = shared / "reference" / "bounds"
    if not (folder / f"{name}.pt").is_file():
        pytest.skip("the reference networks are absent")
    spec = importlib.util.spec_from_file_location("reference_models", folder / "models.py")
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    make, shape, _ = models.MODELS[name]
    graph = load(folder / f"{name}.pt", factory=make, input_shape=(1, *shape))
    x = np.random.default_rng(0).random((1, *shape)).astype(np.float32)
    lowered = lower(graph)
    assert "BatchNorm" not in {node.operator.name for node in lowered.nodes}
    assert np.allclose(lowered(x[None].astype(np.float64)).ravel(), graph.source.replay(x), atol=1e-5)
