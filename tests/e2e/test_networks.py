"""The networks that experiments tell for a dry run are those that they build, as far as a run counts or shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from iclr_repro import command_line
from iclr_repro.core.data import DataError
from iclr_repro.core.experiment import build
from iclr_repro.core.footprint import Network, WithNetworks, footprint
from iclr_repro.entropy_linear_attention.data import LOADERS, NUM_NODES
from iclr_repro.soi_nter.black_boxes import SyntheticBlackBox
from iclr_repro.soi_nter.data import MULTILABEL, load_multilabel
from iclr_repro.topoformer.text import SPECIALS
from iclr_repro.wsep.learner import LEARNT_REWARDS
from support import bare_run


def smoke(paper: str, name: str, **changes: Any) -> Any:
    """Return an experiment of scale smoke."""
    settings = command_line.checked_settings(command_line.compose([f"paper={paper}", "scale=smoke"]))
    return build(name, settings["experiments"][name] | changes)


def parameters(module: nn.Module) -> list[tuple[str, tuple[int, ...], bool]]:
    return [(name, tuple(one.shape), one.requires_grad) for name, one in module.named_parameters()]


def described(network: Network) -> list[tuple[str, tuple[int, ...], bool]]:
    assert network.build is not None
    with torch.device("meta"):
        return parameters(network.build())


# Paper, experiment -> what stands before a network's name in the metric that counts its trained parameters.
COUNTED = {
    ("entropy_linear_attention", "ablation"): "",
    ("fed_prompt", "methods"): "",
    ("loki", "retention"): "",
    ("loki", "implanting"): "equal/",
}


@pytest.mark.parametrize(("paper", "experiment"), COUNTED)
def test_parameters_of_a_dry_run_are_those_that_a_run_counts(paper: str, experiment: str, tmp_path: Path) -> None:
    built = smoke(paper, experiment)
    metrics = built.run(bare_run(tmp_path)).metrics
    compared = []
    for network in built.networks():
        name = f"{COUNTED[paper, experiment]}{network.name}/parameters"
        if network.is_trained and name in metrics:
            assert metrics[name] == footprint(network).num_trained, name
            compared.append(name)
    assert len(compared) >= 2


@pytest.mark.parametrize("scale", ["smoke", "cpu", "paper"])
@pytest.mark.parametrize(
    "paper",
    ["entropy_linear_attention", "fed_prompt", "loki", "reactivation_rnn", "soi_nter", "topoformer", "wsep"],
)
def test_papers_with_networks_count_some_at_every_scale(paper: str, scale: str) -> None:
    settings = command_line.checked_settings(command_line.compose([f"paper={paper}", f"scale={scale}"]))
    experiments = [build(name, config) for name, config in settings["experiments"].items()]
    found = [network for one in experiments if isinstance(one, WithNetworks) for network in one.networks()]
    assert any(network.build is not None and network.is_trained for network in found)


@pytest.mark.parametrize("nets", [["nt_u", "dt_b"], ["gru_u", "nt_b"]])
def test_reactivation_rnn_tells_the_networks_that_it_trains(nets: list[str], tmp_path: Path) -> None:
    experiment, run = smoke("reactivation_rnn", "spatial", nets=nets), bare_run(tmp_path)
    networks = {network.name: network for network in experiment.networks()}
    assert list(networks) == nets
    for name, network in networks.items():
        assert described(network) == parameters(experiment.untrained(run, name))


def test_topoformer_tells_the_models_that_it_trains_but_for_the_words(tmp_path: Path) -> None:
    experiment, run = smoke("topoformer", "sentiment"), bare_run(tmp_path)
    corpus, _ = experiment.corpus(run)
    words = (len(corpus.vocabulary) - len(SPECIALS)) * experiment.num_units
    networks = list(experiment.networks())
    assert [network.name for network in networks] == list(experiment.trained)
    for network in networks:
        model = experiment.model(run, corpus, experiment.variants[network.name])
        assert footprint(network).num_parameters + words == sum(one.numel() for one in model.parameters())


def test_soi_nter_tells_the_networks_of_its_explainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, run = smoke("soi_nter", "synthetic", problems=[["E1", 6, 2]]), bare_run(tmp_path)
    monkeypatch.setattr(type(experiment), "fitted", lambda self, run, explainer, x, stage: explainer)
    networks = {network.name: described(network) for network in experiment.networks()}
    black_box = SyntheticBlackBox("E1", 6)
    common: dict[str, Any] = {"n_outputs": 2, "target": 0, "k": 4, "where": "e1_n6"}
    for name in experiment.variants:
        explainer = experiment.soi_nter(run, name, black_box, torch.zeros(2, 6), **common)
        assert networks[f"e1_n6 {name} energy"] == parameters(explainer.energy)
        assert networks["e1_n6 selector"] == parameters(explainer.selector)
    for name in experiment.l2x:
        explainer = experiment.learned_to_explain(run, name, black_box, torch.zeros(2, 6), **common)
        assert networks["e1_n6 L2X classifier"] == parameters(explainer.classifier)
        assert networks["e1_n6 selector"] == parameters(explainer.selector)


def test_wsep_tells_the_policies_and_rewards_that_it_learns(tmp_path: Path) -> None:
    experiment, run = smoke("wsep", "maze", methods=["diayn", "metra", "pwsep_sampled"]), bare_run(tmp_path)
    networks = {network.name: described(network) for network in experiment.networks()}
    generator = torch.Generator()
    world = experiment._world(run, experiment.copies * experiment.num_skills, generator)
    for method in experiment.methods:
        learner = experiment.new_learner(
            run, method, world, metric=None, policy_generator=torch.Generator(), generator=generator
        )
        assert networks[f"{method} policy"] == parameters(learner.policy)
        assert method in LEARNT_REWARDS
        assert networks[f"{method} reward"] == parameters(learner.reward.network)


@pytest.mark.parametrize("name", LOADERS)
def test_sizes_of_traffic_sets_are_those_of_their_files(name: str) -> None:
    try:
        series = LOADERS[name]()
    except DataError as error:
        pytest.skip(str(error))
    assert series.num_nodes == NUM_NODES[name]


@pytest.mark.parametrize("name", MULTILABEL)
def test_sizes_of_multi_label_sets_are_those_of_their_files(name: str) -> None:
    try:
        data = load_multilabel(name)
    except DataError as error:
        pytest.skip(str(error))
    assert (data.x.shape[1], data.y.shape[1]) == MULTILABEL[name]
