"""Federated prompt tuning of a frozen multilingual encoder: clients hold a language each and exchange prompts.

Fidelity: reconstruction. The paper's abstract, beginning and public reviews were read, and the code of the set-up that
it builds on; its body, tables and appendix could not be obtained, and no code of it is public. Nothing here is private
in the sense of a proof: parameters travel instead of texts, without differential privacy or defence against gradient
inversion.

    K; D_k, n_k           clients; the texts of client k and their number           `clients`; `num_examples`
    theta                 frozen encoder                                            `PromptModel.encoder`
    phi                   prompt module and head, all that is trained and travels   `trainable_state`, `Parameters`
    m; h; e               virtual tokens; hidden size; width of the P-tuning MLP    `num_virtual_tokens`; ...
    P [m, h]              soft prompts                                              `PromptModel.prompt`
    R; E; C               rounds; local epochs; share of clients in a round         `rounds`; `epochs`; `fraction`
    w_k ~ n_k^a           weights of the average                                    `client_weights(..., exponent=a)`
    mu; beta, eta; tau    FedProx; FedAvgM; FedAdam                                 `FedProx`, `FedAvgM`, `FedAdam`
    d(a, b)               distance of two languages                                 `language_distance`
    D(l)                  distance of a language to the others of its federation    `federation_distance`
"""

from iclr_repro.fed_prompt.data import (
    load_masakhanews,
    load_sib200,
    load_uriel,
    load_xnli,
    synthetic_corpus,
)
from iclr_repro.fed_prompt.distance import Uriel, federation_distance, language_distance
from iclr_repro.fed_prompt.federation import Federation, FederationError, FederationResult, run_federation
from iclr_repro.fed_prompt.model import (
    ParameterCounts,
    PromptModel,
    build_prompt_model,
    load_trainable_state,
    parameter_counts,
    start_from_vocabulary,
    trainable_state,
)
from iclr_repro.fed_prompt.partition import dirichlet_clients, partition_clients
from iclr_repro.fed_prompt.pretraining import encode
from iclr_repro.fed_prompt.strategies import (
    ClientUpdate,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    client_weights,
    weighted_average,
)
from iclr_repro.fed_prompt.training import (
    LocalTraining,
    PromptTrainer,
    StackedPromptTrainer,
    Texts,
    language_center,
    predictions,
)

__all__ = [
    "ClientUpdate",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "Federation",
    "FederationError",
    "FederationResult",
    "LocalTraining",
    "ParameterCounts",
    "PromptModel",
    "PromptTrainer",
    "StackedPromptTrainer",
    "Texts",
    "Uriel",
    "build_prompt_model",
    "client_weights",
    "dirichlet_clients",
    "encode",
    "federation_distance",
    "language_center",
    "language_distance",
    "load_masakhanews",
    "load_sib200",
    "load_trainable_state",
    "load_uriel",
    "load_xnli",
    "parameter_counts",
    "partition_clients",
    "predictions",
    "run_federation",
    "start_from_vocabulary",
    "synthetic_corpus",
    "trainable_state",
    "weighted_average",
]
