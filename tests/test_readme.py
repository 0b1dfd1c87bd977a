"""The README tells the truth."""

import re
from pathlib import Path

import torch

from ascertain import fixtures
from ascertain.cli.exits import Exit
from ascertain.cli.main import COMMANDS
from ascertain.cli.options import data_file
from ascertain.runs import read_suite

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_there_are_two_set_up_commands_of_one_line_each():
    assert [block.count("\n") for block in blocks("sh")] == [1, 1]


def test_the_python_tour_runs(capsys):
    tour, _ = blocks("python")
    exec(compile(tour, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert said.startswith("holds: evidence PROVED") and "crown bounds, evidence PROVED" in said
    assert "None" in said or "-> output" in said


def test_the_probing_of_a_module_runs(capsys):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc1, self.fc2 = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(144, 16), torch.nn.Linear(16, 10)

        def forward(self, x):
            return self.fc2(self.fc1(self.conv(x).relu().flatten(1)).relu())

    torch.manual_seed(0)
    _, lines = blocks("python")
    exec(compile(lines, "README.md", "exec"), {"net": Net(), "images": torch.rand(60, 1, 8, 8)})
    said = capsys.readouterr().out
    assert "fc1" in said and "conv" in said and "CKA" in said


def test_the_table_of_exit_codes_is_complete():
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert listed == {code.value for code in Exit}


def test_every_command_is_named():
    for command in COMMANDS:
        assert f"ascertain {command.__name__.lower()}" in README


def test_the_suite_of_the_readme_is_one(tmp_path):
    (suite,) = blocks("toml")
    inputs = "".join(f"(declare-const X_{i} Real)(assert (>= X_{i} 0.0))(assert (<= X_{i} 0.0))" for i in range(64))
    outputs = "".join(f"(declare-const Y_{i} Real)" for i in range(10))
    (tmp_path / "safe.vnnlib").write_text(f"{inputs}{outputs}(assert (>= Y_0 99.0))")
    (tmp_path / "suite.toml").write_text(suite)
    items = read_suite(tmp_path / "suite.toml", {"models": fixtures.path, "data": data_file})
    assert len(items) == 2 * 2 + 2 + 2
