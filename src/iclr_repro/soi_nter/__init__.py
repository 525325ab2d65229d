"""SOInter: which features decide one output of a black box that gives many outputs at once.

Fidelity: reconstruction. Of the paper (arXiv 2202.09914) title, abstract, part of the introduction, a figure caption
and the public reviews could be read; no result of it is known, and none is printed. Symbols and names:

    sb(x), y^sb        the black box and its answers           `QueriedBlackBox`; any callable
    E_q(x, y)          energy, low = consistent                `EnergyNetwork`, `SpenEnergy`, `ConvEnergy`
    IN_t(x; alpha)     k-hot mask of an input                  `SOInter.explain`
    W_alpha, GS        logits and Gumbel-softmax unit          `Selector`, `relaxed_top_k`, `hard_top_k`
    x~ = x ⊙ z         input with the relaxed mask             `SOInter.masked`
    L_diff             the paper's loss                        `interpreter_loss`, objective "diff"
    L_cond, L_free     decisions of the sheet                  objectives "cond" and "free"
    structured=False   the same with an energy of y_t alone    the control in every table
"""

from iclr_repro.soi_nter.baselines import LimeFit, kernel_shap, lime_tabular, random_scores
from iclr_repro.soi_nter.black_boxes import QueriedBlackBox, SyntheticBlackBox, closed_form_e1
from iclr_repro.soi_nter.data import load_arff, load_horses, load_multilabel
from iclr_repro.soi_nter.energy import ConvEnergy, EnergyNetwork, SpenEnergy, all_outputs
from iclr_repro.soi_nter.explainer import AmortisedExplainer
from iclr_repro.soi_nter.interpreter import SOInter
from iclr_repro.soi_nter.l2x import L2X
from iclr_repro.soi_nter.losses import exact_nll, interpreter_loss, margin_hinge, ranking_nce, target_probability
from iclr_repro.soi_nter.metrics import agreement, f1_score, median_rank, recall, recall_of_each
from iclr_repro.soi_nter.paths import InteractionPaths, interaction_paths
from iclr_repro.soi_nter.selector import Selector, hard_top_k, relaxed_top_k
from iclr_repro.soi_nter.structured_models import AscentModel, ExactModel, StructuredTraining

__all__ = [
    "L2X",
    "AmortisedExplainer",
    "AscentModel",
    "ConvEnergy",
    "EnergyNetwork",
    "ExactModel",
    "InteractionPaths",
    "LimeFit",
    "QueriedBlackBox",
    "SOInter",
    "Selector",
    "SpenEnergy",
    "StructuredTraining",
    "SyntheticBlackBox",
    "agreement",
    "all_outputs",
    "closed_form_e1",
    "exact_nll",
    "f1_score",
    "hard_top_k",
    "interaction_paths",
    "interpreter_loss",
    "kernel_shap",
    "lime_tabular",
    "load_arff",
    "load_horses",
    "load_multilabel",
    "margin_hinge",
    "median_rank",
    "random_scores",
    "ranking_nce",
    "recall",
    "recall_of_each",
    "relaxed_top_k",
    "target_probability",
]
