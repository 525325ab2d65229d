"""Federated prompt tuning as a Flower app, for `flwr run` on a SuperLink with one SuperNode a language.

Every site has the encoder beforehand and only its own texts: the site with `partition-id=k` is the k-th language. What
travels is phi. The server starts from the phi_0 that the seed gives, or goes on from the file `save`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from iclr_repro.fed_prompt.data import LABELS, MASAKHANEWS, Corpus, load_masakhanews, synthetic_corpus
from iclr_repro.fed_prompt.flower import Context, Grid, ServerApp, make_client_app, start_strategy
from iclr_repro.fed_prompt.model import PromptModel, build_prompt_model, trainable_state
from iclr_repro.fed_prompt.pretraining import encode, small_encoder, train_tokenizer
from iclr_repro.fed_prompt.strategies import ClientUpdate, FedAdam, FedAvg, FedAvgM, FedProx, Parameters
from iclr_repro.fed_prompt.training import LocalTraining, PromptTrainer, arrays

_STRATEGIES = {"fedavg": FedAvg, "fedprox": FedProx, "fedavgm": FedAvgM, "fedadam": FedAdam}
_SMALL = {"hidden_size": 32, "num_layers": 1, "num_heads": 2}
_SMALL_VOCABULARY = 600

server_app = ServerApp()


class Site:
    """The one client of a site, under the number that it has in the federation.

    Args:
        config: of the run, see pyproject.toml.
        partition: k.
    """

    def __init__(self, config: Mapping[str, Any], partition: int) -> None:
        corpus = _trial_corpus(config)
        if corpus is None:
            tokenizer: Any = AutoTokenizer.from_pretrained(str(config["encoder"]))
            texts = load_masakhanews(MASAKHANEWS[partition])["train"]
        else:
            tokenizer = train_tokenizer(corpus, vocab_size=_SMALL_VOCABULARY)
            texts = list(corpus.languages.values())[partition]["train"]
        training = LocalTraining(
            steps=int(config["steps"]) or None,
            batch_size=int(config["batch-size"]),
            prompt_rate=float(config["prompt-rate"]),
            head_rate=float(config["head-rate"]),
        )
        clients = [encode(tokenizer, texts, length=int(config["length"]))]
        # The site's number is in the seed, since it knows itself as client 0.
        self._trainer = PromptTrainer(build_model(config), clients, training, seed=int(config["seed"]) + partition)

    def train(self, client: int, parameters: Parameters, round: int, *, proximal_mu: float = 0.0) -> ClientUpdate:
        """Train; see `federation.Trainer`."""
        return self._trainer.train(0, parameters, round, proximal_mu=proximal_mu)


def build_model(config: Mapping[str, Any]) -> PromptModel:
    """Build the model that the configuration of a run describes, phi_0 from its seed."""
    generator = torch.Generator().manual_seed(int(config["seed"]))
    is_small = config["encoder"] == "small"
    encoder: Any = config["encoder"]
    if is_small:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = small_encoder(_SMALL_VOCABULARY, **_SMALL)
    return build_prompt_model(
        encoder,
        3 if config["data"] == "synthetic" else len(LABELS),
        num_virtual_tokens=int(config["num-virtual-tokens"]),
        generator=generator,
    )


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds, and keep phi after each."""
    config = context.run_config
    path = Path(str(config["save"]))
    phi = arrays(trainable_state(build_model(config)))
    done = 0
    if path.is_file():
        with np.load(path) as saved:
            done = int(saved["round"])
            phi = {name: saved[name] for name in phi}
    if done >= int(config["rounds"]):
        logging.getLogger("iclr_repro").info("%s has %d rounds: nothing is left to do", path, done)
        return
    exponent = float(config["exponent"])

    def keep(round: int, parameters: Parameters) -> None:
        with path.with_suffix(".tmp").open("wb") as file:
            np.savez(file, round=done + round, **parameters)  # type: ignore[arg-type]
        path.with_suffix(".tmp").replace(path)

    start_strategy(
        grid,
        _STRATEGIES[str(config["strategy"])](exponent=exponent),
        phi,
        rounds=int(config["rounds"]) - done,
        num_clients=int(config["num-clients"]),
        seed=int(config["seed"]),
        first_round=done + 1,
        after_round=keep,
    )


@cache
def _site(config: tuple[tuple[str, Any], ...], partition: int) -> Site:
    torch.set_num_threads(1)
    return Site(dict(config), partition)


def _trial_corpus(config: Mapping[str, Any]) -> Corpus | None:
    if config["data"] == "masakhanews":
        return None
    number = int(config["num-clients"])
    return synthetic_corpus(
        num_languages=number, num_labels=3, num_train=[64] * number, num_test=8, rng=np.random.default_rng(0)
    )


client_app = make_client_app(
    lambda context: _site(tuple(context.run_config.items()), int(context.node_config["partition-id"]))
)
