"""What trained models are like inside: eight test suites with the localiser, and the alignment with brain responses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from transformers import AutoConfig, AutoTokenizer

from iclr_repro.core.data import real_or_synthetic
from iclr_repro.core.experiment import DataKind, Result, parameter
from iclr_repro.core.footprint import Network
from iclr_repro.core.rundir import Run
from iclr_repro.topoformer import figures
from iclr_repro.topoformer.attention import SHEETS
from iclr_repro.topoformer.brain import (
    fmri_smoothing,
    latent_scores,
    localise,
    response_profile,
    selective_clusters,
    synthetic_sheets,
)
from iclr_repro.topoformer.classifier import token_mean
from iclr_repro.topoformer.data import load_roi_responses, read_table
from iclr_repro.topoformer.experiments._training import OfSentiment, Options, Sheets, encode, seeded
from iclr_repro.topoformer.maps import (
    SelectivityMap,
    cross_correlation_maps,
    morans_i,
    morans_null,
    pca_maps,
    selectivity_map,
    standardised,
)
from iclr_repro.topoformer.masked_lm import TopoformerForMaskedLM
from iclr_repro.topoformer.pls import pls_null, pls_svd
from iclr_repro.topoformer.statistic import permutation_p_value
from iclr_repro.topoformer.suites import TestSuite, load_noun_verb_contrasts, load_test_suites, run_test_suites

Encoder = Callable[[Sequence[str]], Sheets]
_CONDITIONS = ("S", "W", "J", "N")
_ENCODED_AT_ONCE = 64
_DRAWN_COMPONENTS = 3


@dataclass(frozen=True, kw_only=True)
class OfModels(OfSentiment):
    """Experiments on models: the one-layer ones that are trained here, or saved Topoformers.

    Either way one is named sqr, and the same model before training is measured beside it as untrained_sqr.
    """

    variants: dict[str, Options] = parameter("name -> options of TopographicSelfAttention")
    checkpoints: dict[str, str] = parameter("name -> folder of a saved model and tokenizer; empty: train `variants`")
    sheet: str = parameter("query, key, value or fc_out; of a layer of saved models: layer8/key")

    def encoders(self, run: Run) -> tuple[dict[str, Encoder], DataKind]:
        """Return how each model encodes sentences, and the kind of the texts that it was trained on.

        Raises:
            ValueError: there is no model named sqr, or the models have no such sheet.
        """
        field, models = ("checkpoints", self.checkpoints) if self.checkpoints else ("variants", self.variants)
        if "sqr" not in models:
            raise ValueError(
                f"{field}: got {', '.join(models)}, expected one that is named sqr: untrained, it is the null of the"
                " others"
            )
        if self.checkpoints:
            return self._saved(run), "real"
        self._check_sheet(SHEETS)
        corpus, kind = self.corpus(run)
        found: dict[str, Encoder] = {}
        for name, variant in self.variants.items():
            model = self.fitted(run, corpus, variant, name=name)
            found[name] = lambda texts, model=model: encode(model, corpus.vocabulary, texts, self.length)  # type: ignore[misc]
        untrained = self.model(run, corpus, self.variants["sqr"])
        found["untrained_sqr"] = lambda texts: encode(untrained, corpus.vocabulary, texts, self.length)
        return found, kind

    def networks(self) -> Iterable[Network]:
        """Describe the models that are trained, or name the saved ones."""
        if not self.checkpoints:
            return self.described(self.variants)
        return [Network(name=name, build=None, note=f"saved in {folder}") for name, folder in self.checkpoints.items()]

    def _saved(self, run: Run) -> dict[str, Encoder]:
        found = {
            name: checkpoint_encoder(TopoformerForMaskedLM.from_pretrained(folder), folder, run.device)
            for name, folder in self.checkpoints.items()
        }
        for encoder in found.values():
            self._check_sheet(encoder(["a sentence"]))
        with seeded(run):
            untrained = TopoformerForMaskedLM(AutoConfig.from_pretrained(self.checkpoints["sqr"]))
        found["untrained_sqr"] = checkpoint_encoder(untrained, self.checkpoints["sqr"], run.device)
        return found

    def _check_sheet(self, sheets: Iterable[str]) -> None:
        names = list(sheets)
        if self.sheet not in names:
            raise ValueError(f"sheet: got {self.sheet!r}, but the models have {', '.join(names)}: choose one of them")


@dataclass(frozen=True, kw_only=True)
class TestSuites(OfModels):
    """Selectivity, its clustering and decoding on eight suites; fMRI-like smoothing; language-selective units (H4)."""

    __test__ = False  # for pytest

    folds: int = parameter("of the cross-validation", low=2, high=19)
    permutations: int = parameter("of units, for the null of Moran's I", low=1)

    def run(self, run: Run) -> Result:
        """Measure all models on all suites."""
        encoders, kind = self.encoders(run)
        stimuli_found, stimuli = real_or_synthetic(
            self.data,
            lambda: (
                load_test_suites(),
                load_noun_verb_contrasts(),
                _by_condition("suites_langloc.csv", "words", ("S", "N")),
                _by_condition("suites_fedorenko_conditions.csv", "sentence", _CONDITIONS),
            ),
            lambda: _generated_stimuli(run.rng("stimuli")),
        )
        suites, contrasts, localiser, conditions = stimuli_found
        kind = "real" if kind == stimuli == "real" else "synthetic"
        metrics: dict[str, float] = {}
        tables = {}
        maps: dict[str, dict[str, SelectivityMap]] = {}
        for name, encoder in encoders.items():
            table, found = run_test_suites(
                encoder, suites, folds=self.folds, permutations=self.permutations, rng=run.rng("folds")
            )
            tables[name] = table
            for (suite, sheet), row in table.iterrows():
                metrics |= {f"{name}/{suite}/{sheet}/{quantity}": value for quantity, value in row.items()}
            metrics |= {f"{name}/mean_{quantity}": value for quantity, value in means_over_suites(table).items()}
            maps[name] = {suite.name: found[suite.name, self.sheet] for suite in suites}
            for suite in (suites[0], *contrasts):
                smoothed = _smoothed_moran(encoder, suite, self.sheet)
                metrics |= {f"{name}/{suite.name}_{quantity}": value for quantity, value in smoothed.items()}
            metrics |= {
                f"{name}/{quantity}": value for quantity, value in _localised(encoder, localiser, conditions).items()
            }
        metrics["n"] = sum(len(suite.sentences) for suite in suites)
        table = pd.concat(tables, names=["model"])
        made = {
            "suite_maps": figures.selectivity_grid(maps, title=f"group A minus B of each suite, {self.sheet} sheet"),
            "suite_matrix": figures.suite_matrix(table),
        }
        return Result(metrics=metrics, tables={"suites": table}, figures=made, data=kind)


@dataclass(frozen=True, kw_only=True)
class BrainAlignment(OfModels):
    """PLS-SVD of model sheets with generated voxels, and with the responses of five language regions (T9)."""

    num_sentences: int = parameter("generated sentences", low=20)
    sheet_units: int = parameter("units of the generated model sheet, a perfect square", low=9)
    num_voxels: int = parameter("generated voxels, a perfect square", low=9)
    num_latents: int = parameter("shared latents, and components of the alignment", low=1)
    sigma: float = parameter("smoothness of the generated maps", unit="units of the grid", low=0.1)
    amplitudes: tuple[float, ...] = parameter("of the shared latents in the voxels", low=0.0)
    folds: int = parameter("of the generated sentences", low=2)
    roi_folds: int = parameter("of the 1,000 real sentences", low=2)
    permutations: int = parameter("of sentences, for the null of r, and of units, for that of Moran's I", low=20)

    def run(self, run: Run) -> Result:
        """Align generated sheets, then real models."""
        metrics, made, rows = self._generated(run)
        encoders, kind = self.encoders(run)
        (sentences, responses), measured = real_or_synthetic(
            self.data, load_roi_responses, lambda: _generated_responses(run.rng("responses"))
        )
        kind = "real" if kind == measured == "real" else "synthetic"
        maps: dict[str, dict[str, np.ndarray]] = {}
        for name, encoder in encoders.items():
            activations = encoder(sentences)[self.sheet]
            found = self._real(run, activations, responses)
            maps[name], of_components = self._correlated(run, responses, activations)
            metrics |= {f"real/{name}/{quantity}": value for quantity, value in (found | of_components).items()}
            rows[f"ROIs, {name}"] = {"r1": found["r1"], "null95": found["r1_null95"]}
        made["component_correlations"] = figures.map_grid(
            maps, title=f"correlation of units ({self.sheet}) with principal components of five language regions"
        )
        metrics |= {"real/n": len(sentences), "synthetic/n": self.num_sentences}
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(index="alignment")
        made["alignment"] = figures.alignment(table)
        return Result(metrics=metrics, tables={"alignment": table}, figures=made, data=kind)

    def _generated(self, run: Run) -> tuple[dict[str, float], dict[str, Figure], dict[str, dict[str, float]]]:
        """Metrics, figures and rows of the table of alignments of generated sheets."""
        rng = run.rng("sheets")
        latents = latent_scores(self.num_sentences, self.num_latents, rng=rng)
        sheets = synthetic_sheets(
            latents, num_units=self.sheet_units, num_voxels=self.num_voxels, sigma=self.sigma, rng=rng
        )
        options = {"num_components": self.num_latents, "folds": self.folds}
        metrics: dict[str, float] = {}
        maps, component_maps, rows = {}, {}, {}
        for amplitude in self.amplitudes:
            voxels = sheets.voxels(amplitude)
            topographic = pls_svd(sheets.topographic, voxels, **options)
            control = pls_svd(sheets.control, voxels, **options)
            null_RK = pls_null(
                sheets.topographic, voxels, **options, permutations=self.permutations, rng=run.rng("null")
            )
            prefix = f"synthetic/a{amplitude:g}"
            metrics |= {f"{prefix}/r{k + 1}": float(r) for k, r in enumerate(topographic.r)}
            metrics[f"{prefix}/r1_null95"] = float(np.quantile(null_RK[:, 0], 0.95))
            metrics[f"{prefix}/r1_above_null"] = metrics[f"{prefix}/r1"] - metrics[f"{prefix}/r1_null95"]
            for name, of_components in (
                ("u{}", topographic.model_maps),
                ("u{}_control", control.model_maps),
                ("v{}", topographic.voxel_maps),
            ):
                metrics |= _morans_by_component(f"{prefix}/moran_{name}", of_components)
            metrics[f"{prefix}/moran_u1_p"] = self._moran_p(run, topographic.model_maps[0])
            metrics[f"{prefix}/moran_v1_p"] = self._moran_p(run, topographic.voxel_maps[0])
            metrics[f"{prefix}/r_difference_of_control"] = float(np.abs(topographic.r - control.r).max())
            maps[f"a = {amplitude:g}"] = {
                "model, topographic": topographic.model_maps[0],
                "model, permuted": control.model_maps[0],
                "voxels": topographic.voxel_maps[0],
            }
            component_maps[f"a = {amplitude:g}"] = {
                f"{domain}, {source} PC{k + 1}": correlations[k]
                for domain, source, correlations in (
                    ("units", "voxel", _correlations_with_components(voxels, sheets.topographic, self.num_latents)),
                    ("voxels", "model", _correlations_with_components(sheets.topographic, voxels, self.num_latents)),
                )
                for k in range(min(self.num_latents, _DRAWN_COMPONENTS))
            }
            rows[f"generated, a = {amplitude:g}"] = {
                "r1": metrics[f"{prefix}/r1"],
                "null95": metrics[f"{prefix}/r1_null95"],
            }
        made = {
            "pls_maps": figures.map_grid(maps, title="weights of the first component, generated sheets"),
            "generated_component_correlations": figures.map_grid(
                component_maps, title="correlation of a sheet's units with principal components of the other sheet"
            ),
        }
        return metrics, made, rows

    def _correlated(
        self, run: Run, responses: np.ndarray, activations: np.ndarray
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Maps of the correlation of units with the regions' components, and how smooth they are (sheet 2.15)."""
        maps_KD = _correlations_with_components(responses, activations, min(responses.shape[1], self.num_latents))
        metrics = _morans_by_component("moran_roi_pc{}", maps_KD)
        metrics["moran_roi_pc1_p"] = self._moran_p(run, maps_KD[0])
        return {f"PC{k + 1} of the regions": values for k, values in enumerate(maps_KD[:_DRAWN_COMPONENTS])}, metrics

    def _moran_p(self, run: Run, values: np.ndarray) -> float:
        null = morans_null(values, permutations=self.permutations, rng=run.rng("moran null"))
        return permutation_p_value(float(morans_i(values)), null)

    def _real(self, run: Run, activations: np.ndarray, responses: np.ndarray) -> dict[str, float]:
        """Align a real sheet with the regions, with noise in their place, and with smooth voxels that mix them."""
        components = min(responses.shape[1], self.num_latents)
        options = {"num_components": components, "folds": self.roi_folds}
        aligned = pls_svd(activations, responses, **options)
        null_RK = pls_null(activations, responses, **options, permutations=self.permutations, rng=run.rng("roi null"))
        noise = pls_svd(activations, run.rng("noise region").standard_normal(responses.shape), **options)
        voxels = synthetic_sheets(
            standardised(responses),
            num_units=self.sheet_units,
            num_voxels=self.num_voxels,
            sigma=self.sigma,
            rng=run.rng("roi voxels"),
        ).voxels(1.0)
        mixed = pls_svd(activations, voxels, **options)
        threshold = float(np.quantile(null_RK[:, 0], 0.95))
        found = {f"r{k + 1}": float(r) for k, r in enumerate(aligned.r)}
        found |= {
            "r1_null95": threshold,
            "r1_above_null": found["r1"] - threshold,
            "moran_u1_p": self._moran_p(run, aligned.model_maps[0]),
            "noise_region_r1": float(noise.r[0]),
        }
        found |= {f"roi_voxels_r{k + 1}": float(r) for k, r in enumerate(mixed.r)}
        found |= _morans_by_component("moran_u{}", aligned.model_maps)
        found |= _morans_by_component("roi_voxels_moran_u{}", mixed.model_maps)
        found |= _morans_by_component("roi_voxels_moran_v{}", mixed.voxel_maps)
        return found


def means_over_suites(table: pd.DataFrame) -> dict[str, float]:
    """Return "quantity/sheet" -> mean over the suites; for sheets by layer, as "layer3/key", over all layers too.

    Args:
        table: index (suite, sheet), of `run_test_suites`.
    """
    by_layer = table.index.get_level_values("sheet")
    of_all_layers = by_layer.map(lambda name: name.split("/")[-1])
    found: dict[str, float] = {}
    for sheets in (by_layer, of_all_layers):
        means = table[["moran", "accuracy", "significant_share"]].groupby(sheets).mean()
        found |= {f"{quantity}/{sheet}": value for sheet, row in means.iterrows() for quantity, value in row.items()}
    return found


def _correlations_with_components(source: np.ndarray, target: np.ndarray, num_components: int) -> np.ndarray:
    """[K, units of the target] correlation with the scores of the source's principal components."""
    return cross_correlation_maps(pca_maps(source, num_components).scores, target)


def _morans_by_component(name: str, maps_KD: np.ndarray) -> dict[str, float]:
    """Moran's I of every component; `name` has a place for its number, from 1 on."""
    return {name.format(k + 1): float(value) for k, value in enumerate(np.asarray(morans_i(maps_KD)))}


def checkpoint_encoder(model: TopoformerForMaskedLM, folder: str, device: torch.device) -> Encoder:
    """Return an encoder from a masked-LM Topoformer and the saved tokenizer: sheets are named "layer3/key"."""
    return partial(_encode_by_layer, model.to(device).eval(), AutoTokenizer.from_pretrained(folder))


@torch.no_grad()
def _encode_by_layer(model: TopoformerForMaskedLM, tokenizer: object, texts: Sequence[str]) -> Sheets:
    parts: dict[str, list[np.ndarray]] = {}
    for first in range(0, len(texts), _ENCODED_AT_ONCE):
        batch = tokenizer(  # type: ignore[operator]
            list(texts[first : first + _ENCODED_AT_ONCE]),
            padding=True,
            truncation=True,
            max_length=model.config.max_position_embeddings,
            return_tensors="pt",
        ).to(model.device)
        counts_BT = batch["attention_mask"].bool()
        for number, sheets in enumerate(model.sheets(batch["input_ids"], batch["attention_mask"])):
            for sheet, x_BTD in sheets.items():
                means = token_mean(x_BTD, counts_BT).double().cpu().numpy()
                parts.setdefault(f"layer{number}/{sheet}", []).append(means)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _by_condition(file: str, text: str, conditions: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {condition: [] for condition in conditions}
    for row in read_table(file):
        found[row["condition"]].append(row[text])
    return found


def _generated_responses(rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Word lists and responses that share nothing."""
    sentences = [" ".join(f"w{word}" for word in row) for row in rng.integers(200, size=(200, 6))]
    return sentences, rng.standard_normal((len(sentences), 5))


def _generated_stimuli(
    rng: np.random.Generator,
) -> tuple[list[TestSuite], list[TestSuite], dict[str, list[str]], dict[str, list[str]]]:
    """Word lists in place of the suites, the contrasts of nouns and verbs, and the localiser's conditions."""

    def word_lists(number: int) -> list[str]:
        return [" ".join(f"w{word}" for word in row) for row in rng.integers(200, size=(number, 8))]

    labels = np.arange(80) % 2
    suite, contrast = (
        TestSuite(name, tuple(word_lists(80)), labels, np.arange(80), ("generated",) * 80)
        for name in ("generated", "generated_nouns_verbs")
    )
    localiser, conditions = ({condition: word_lists(40) for condition in names} for names in (("S", "N"), _CONDITIONS))
    return [suite], [contrast], localiser, conditions


def _smoothed_moran(encoder: Encoder, suite: TestSuite, sheet: str) -> dict[str, float]:
    """Moran's I on the bounded sheet, before and after fMRI-like smoothing of the activations (sheet 2.14, 4.4)."""
    activations = encoder(suite.sentences)[sheet]
    raw, smoothed = (selectivity_map(x, suite.labels) for x in (activations, fmri_smoothing(activations)))
    return {
        f"moran_bounded/{sheet}": float(morans_i(raw.t, wrap=False)),
        f"moran_smoothed/{sheet}": float(morans_i(smoothed.t, wrap=False)),
        f"significant_share/{sheet}": float(raw.significant.mean()),
    }


def _localised(
    encoder: Encoder, localiser: Mapping[str, Sequence[str]], conditions: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Units that the localiser's sentences and non-words select, their clusters, and their response to other items."""
    by_condition = {condition: encoder(texts) for condition, texts in conditions.items()}
    found = localise(encoder(localiser["S"]), encoder(localiser["N"]))
    metrics: dict[str, float] = {}
    for sheet, selective in found.selective.items():
        metrics[f"localiser/selective_share/{sheet}"] = float(selective.mean())
        metrics[f"localiser/clusters/{sheet}"] = float(selective_clusters(found.t[sheet], selective).max())
        if selective.any():
            profile = response_profile({c: by_condition[c][sheet] for c in _CONDITIONS}, selective)
            metrics |= {f"localiser/response_{c}/{sheet}": value for c, value in profile.items()}
    return metrics
