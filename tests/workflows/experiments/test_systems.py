"""The table of systems: figures of models that can be counted by hand, and that every system is in it."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from frameloom.fuse import create_model
from frameloom.fuse.layers import products
from frameloom.workflows.cli.app import app
from frameloom.workflows.console import Console
from frameloom.workflows.experiments.systems import SYSTEMS, measured_systems
from torch import nn
from typer.testing import CliRunner


def test_every_system_has_its_figures() -> None:
    found = measured_systems(tiny=True, console=Console(quiet=True))
    assert tuple(one.name for one in found.systems) == SYSTEMS
    for one in found.systems:
        assert one.trained <= one.parameters
        assert one.objectives
        assert min(cost.gflop for cost in (one.question, one.clip, one.step)) > 0
        assert one.step.gflop > one.clip.gflop + one.question.gflop  # backward takes twice as much again
        assert (one.pair is not None) == (one.name in ("all_in_one", "clover", "t2v2t"))
    lines = list(found.lines())
    assert len(lines) == 2 + len(SYSTEMS)
    assert len({line.count("|") for line in lines}) == 1


def test_parameters_and_products_are_counted() -> None:
    model = create_model("test_t2v2t")
    (one,) = measured_systems(["test_t2v2t"], console=Console(quiet=True)).systems
    assert one.parameters == sum(each.numel() for each in model.parameters())
    # The products of the text encoder with 12 tokens: every linear layer sees each token once, [CLS]'s projection one.
    bert = model.bert
    linear = [each for each in bert.encoder.layer[:1].modules() if isinstance(each, nn.Linear)]
    products = sum(2 * 12 * each.weight.numel() for each in linear) + 2 * model.text_proj.weight.numel()
    attention = 4 * 12 * 12 * 16
    assert one.question.gflop * 1e9 == pytest.approx(products + attention, rel=0.01)


def test_operations_are_those_of_the_model_whoever_does_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's products, which torch's counter does not know, count as torch's own."""
    found = []
    for smallest in (0, sys.maxsize):
        monkeypatch.setattr(products, "SMALLEST_PRODUCT", smallest)
        found.append(measured_systems(["test_t2v2t"], console=Console(quiet=True)).systems[0])
    for part in ("question", "clip", "pair", "step"):
        assert getattr(found[0], part).gflop == getattr(found[1], part).gflop > 0


def test_the_threads_are_as_they_were() -> None:
    before = torch.get_num_threads()
    with pytest.raises(Exception, match="no model"):
        measured_systems(["nothing"], console=Console(quiet=True))
    assert torch.get_num_threads() == before


def test_the_command() -> None:
    done = CliRunner().invoke(app, ["models", "test_clover", "--measure", "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["systems"][0]["name"] == "test_clover"
