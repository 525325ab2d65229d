"""LoKI: implanting knowledge into the rows of a language model that matter least for what it knows.

Fidelity: paper. The body was read in full, and the authors' code; the appendices could not be obtained. Symbols:

    W_down^(l) [d, f]   down projection of layer l; its row j makes coordinate j    `down_projections`, `dense_rows`
    z_l                 its output at the last prompt position                      `attribute`
    m; alpha_k          interpolation points and where they lie                     `steps`; `rule`
    Attr_{l,j}          knowledge vector attribution (KVA)                          `knowledge_vector_attribution`
    q; T, k             quota in percent; rows over all layers, in each layer       `quota`; `rows_per_layer`
    S_l                 selected rows of layer l                                    `select_rows`
    A_l, B_l, r         low-rank factors of LoKI + LoRA and their rank              `LokiConfig(lora_r=r)`
    Avg                 average relative degradation over benchmarks                `forgetting`

Importing the package registers the method LOKI with peft.
"""

from iclr_repro.loki.attribution import Attribution, attribute, interpolation_points, unpadded_prompts
from iclr_repro.loki.bfcl import ast_match, load_bfcl, oracle_calls, parse_calls
from iclr_repro.loki.config import LokiConfig
from iclr_repro.loki.decoder import DownProjection, check_positions, down_projections
from iclr_repro.loki.layer import LokiLayer
from iclr_repro.loki.metrics import Forgetting, forgetting, pareto_front
from iclr_repro.loki.model import LokiModel
from iclr_repro.loki.positions import load_positions, save_positions
from iclr_repro.loki.probing import knowledge_vector_attribution
from iclr_repro.loki.prompts import (
    load_mmlu,
    mmlu_probes,
    mmlu_prompt,
    reranker_contrast,
    reranker_messages,
    reranker_score,
    toolace_messages,
)
from iclr_repro.loki.selection import rows_per_layer, select_rows, selection_counts
from iclr_repro.loki.stability import Stability, overlap, selection_stability
from iclr_repro.loki.suppression import suppress_rows, suppression_report
from iclr_repro.loki.tinyworld import TinyWorld

__all__ = [
    "Attribution",
    "DownProjection",
    "Forgetting",
    "LokiConfig",
    "LokiLayer",
    "LokiModel",
    "Stability",
    "TinyWorld",
    "ast_match",
    "attribute",
    "check_positions",
    "down_projections",
    "forgetting",
    "interpolation_points",
    "knowledge_vector_attribution",
    "load_bfcl",
    "load_mmlu",
    "load_positions",
    "mmlu_probes",
    "mmlu_prompt",
    "oracle_calls",
    "overlap",
    "pareto_front",
    "parse_calls",
    "reranker_contrast",
    "reranker_messages",
    "reranker_score",
    "rows_per_layer",
    "save_positions",
    "select_rows",
    "selection_counts",
    "selection_stability",
    "suppress_rows",
    "suppression_report",
    "toolace_messages",
    "unpadded_prompts",
]
