"""What trained models are like inside: eight test suites with the localiser, and the alignment with brain responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer

from iclr_repro.core.data import real_or_synthetic
from iclr_repro.core.experiment import DataKind, Result, parameter
from iclr_repro.core.rundir import Run
from iclr_repro.topoformer import figures
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
from iclr_repro.topoformer.experiments._training import OfSentiment, Options, Sheets, encode
from iclr_repro.topoformer.maps import morans_i, selectivity_map, standardised
from iclr_repro.topoformer.masked_lm import TopoformerForMaskedLM
from iclr_repro.topoformer.pls import pls_null, pls_svd
from iclr_repro.topoformer.suites import TestSuite, load_test_suites, run_test_suites

Encoder = Callable[[Sequence[str]], Sheets]
_CONDITIONS = ("S", "W", "J", "N")
_ENCODED_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class OfModels(OfSentiment):
    """Experiments on models: the one-layer ones that are trained here, or saved Topoformers."""

    variants: dict[str, Options] = parameter("name -> options of TopographicSelfAttention")
    checkpoints: dict[str, str] = parameter("name -> folder of a saved model and tokenizer; empty: train `variants`")

    def encoders(self, run: Run) -> tuple[dict[str, Encoder], DataKind]:
        """Return how each model encodes sentences, and the kind of the texts that it was trained on."""
        if self.checkpoints:
            return {name: checkpoint_encoder(folder, run.device) for name, folder in self.checkpoints.items()}, "real"
        corpus, kind = self.corpus(run)
        found: dict[str, Encoder] = {}
        for name, variant in self.variants.items():
            model = self.fitted(run, corpus, variant, name=name)
            found[name] = lambda texts, model=model: encode(model, corpus.vocabulary, texts, self.length)  # type: ignore[misc]
        untrained = self.model(run, corpus, self.variants["sqr"])
        found["untrained_sqr"] = lambda texts: encode(untrained, corpus.vocabulary, texts, self.length)
        return found, kind


@dataclass(frozen=True, kw_only=True)
class TestSuites(OfModels):
    """Selectivity, its clustering and decoding on eight suites; fMRI-like smoothing; language-selective units (H4)."""

    __test__ = False  # for pytest

    folds: int = parameter("of the cross-validation", low=2, high=19)
    sheet: str = parameter("of the maps that are drawn")

    def run(self, run: Run) -> Result:
        """Measure all models on all suites."""
        encoders, kind = self.encoders(run)
        (suites, conditions), stimuli = real_or_synthetic(
            self.data, lambda: (load_test_suites(), _fedorenko()), lambda: _generated_stimuli(run.rng("stimuli"))
        )
        kind = "real" if kind == stimuli == "real" else "synthetic"
        metrics: dict[str, float] = {}
        tables, maps = {}, {}
        for name, encoder in encoders.items():
            table, found = run_test_suites(encoder, suites, folds=self.folds, rng=run.rng("folds"))
            tables[name] = table
            for (suite, sheet), row in table.iterrows():
                metrics |= {f"{name}/{suite}/{sheet}/{quantity}": value for quantity, value in row.items()}
            for sheet, mean in table.groupby("sheet")[["moran", "accuracy", "significant_share"]].mean().iterrows():
                metrics |= {f"{name}/mean_{quantity}/{sheet}": value for quantity, value in mean.items()}
            maps[name] = {suite.name: found[suite.name, self.sheet].t for suite in suites}
            metrics |= {
                f"{name}/{quantity}": value
                for quantity, value in _smoothed_moran(encoder, suites[0], self.sheet).items()
            }
            metrics |= {f"{name}/{quantity}": value for quantity, value in _localised(encoder, conditions).items()}
        metrics["n"] = sum(len(suite.sentences) for suite in suites)
        table = pd.concat(tables, names=["model"])
        made = {
            "suite_maps": figures.map_grid(maps, title=f"t of the two groups of each suite, {self.sheet} sheet"),
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
    permutations: int = parameter("of sentences, for the null of r", low=20)
    sheet: str = parameter("of the models")

    def run(self, run: Run) -> Result:
        """Align generated sheets, then real models."""
        metrics, maps, rows = self._generated(run)
        made = {"pls_maps": figures.map_grid(maps, title="weights of the first component")}
        encoders, kind = self.encoders(run)
        (sentences, responses), measured = real_or_synthetic(
            self.data, load_roi_responses, lambda: _generated_responses(run.rng("responses"))
        )
        kind = "real" if kind == measured == "real" else "synthetic"
        for name, encoder in encoders.items():
            found, row = self._real(run, encoder(sentences)[self.sheet], responses)
            metrics |= {f"real/{name}/{quantity}": value for quantity, value in found.items()}
            rows[f"ROIs, {name}"] = row
        metrics |= {"real/n": len(sentences), "synthetic/n": self.num_sentences}
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(index="alignment")
        made["alignment"] = figures.alignment(table)
        return Result(metrics=metrics, tables={"alignment": table}, figures=made, data=kind)

    def _generated(
        self, run: Run
    ) -> tuple[dict[str, float], dict[str, dict[str, np.ndarray]], dict[str, dict[str, float]]]:
        rng = run.rng("sheets")
        latents = latent_scores(self.num_sentences, self.num_latents, rng=rng)
        sheets = synthetic_sheets(
            latents, num_units=self.sheet_units, num_voxels=self.num_voxels, sigma=self.sigma, rng=rng
        )
        options = {"num_components": self.num_latents, "folds": self.folds}
        metrics: dict[str, float] = {}
        maps, rows = {}, {}
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
            metrics[f"{prefix}/moran_u1"] = float(morans_i(topographic.model_maps[0]))
            metrics[f"{prefix}/moran_u1_control"] = float(morans_i(control.model_maps[0]))
            metrics[f"{prefix}/moran_v1"] = float(morans_i(topographic.voxel_maps[0]))
            metrics[f"{prefix}/r_difference_of_control"] = float(np.abs(topographic.r - control.r).max())
            maps[f"a = {amplitude:g}"] = {
                "model, topographic": topographic.model_maps[0],
                "model, permuted": control.model_maps[0],
                "voxels": topographic.voxel_maps[0],
            }
            rows[f"generated, a = {amplitude:g}"] = {
                "r1": metrics[f"{prefix}/r1"],
                "null95": metrics[f"{prefix}/r1_null95"],
            }
        return metrics, maps, rows

    def _real(
        self, run: Run, activations: np.ndarray, responses: np.ndarray
    ) -> tuple[dict[str, float], dict[str, float]]:
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
            "moran_u1": float(morans_i(aligned.model_maps[0])),
            "noise_region_r1": float(noise.r[0]),
            "roi_voxels_r1": float(mixed.r[0]),
            "roi_voxels_moran_u1": float(morans_i(mixed.model_maps[0])),
            "roi_voxels_moran_v1": float(morans_i(mixed.voxel_maps[0])),
        }
        return found, {"r1": found["r1"], "null95": threshold}


def checkpoint_encoder(folder: str, device: torch.device) -> Encoder:
    """Return an encoder from a saved masked-LM Topoformer and its tokenizer: sheets are named "layer3/key"."""
    model = TopoformerForMaskedLM.from_pretrained(folder).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return partial(_encode_by_layer, model, tokenizer)


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


def _fedorenko() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {condition: [] for condition in _CONDITIONS}
    for row in read_table("suites_fedorenko_conditions.csv"):
        found[row["condition"]].append(row["sentence"])
    return found


def _generated_responses(rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Word lists and responses that share nothing."""
    sentences = [" ".join(f"w{word}" for word in row) for row in rng.integers(200, size=(200, 6))]
    return sentences, rng.standard_normal((len(sentences), 5))


def _generated_stimuli(rng: np.random.Generator) -> tuple[list[TestSuite], dict[str, list[str]]]:
    """Word lists in place of the suites and the localiser's conditions."""

    def word_lists(number: int) -> list[str]:
        return [" ".join(f"w{word}" for word in row) for row in rng.integers(200, size=(number, 8))]

    labels = np.arange(80) % 2
    suite = TestSuite("generated", tuple(word_lists(80)), labels, np.arange(80), ("generated",) * 80)
    return [suite], {condition: word_lists(40) for condition in _CONDITIONS}


def _smoothed_moran(encoder: Encoder, suite: TestSuite, sheet: str) -> dict[str, float]:
    """Moran's I on the bounded sheet, before and after fMRI-like smoothing of the activations (sheet 2.14, 4.4)."""
    activations = encoder(suite.sentences)[sheet]
    maps = [selectivity_map(x, suite.labels).t for x in (activations, fmri_smoothing(activations))]
    raw, smoothed = (float(morans_i(values, wrap=False)) for values in maps)
    return {f"{suite.name}_moran_bounded/{sheet}": raw, f"{suite.name}_moran_smoothed/{sheet}": smoothed}


def _localised(encoder: Encoder, conditions: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The localiser on the 160 + 160 sentences and non-word strings; profile and clusters of selective units."""
    by_condition = {condition: encoder(texts) for condition, texts in conditions.items()}
    found = localise(by_condition["S"], by_condition["N"])
    metrics: dict[str, float] = {}
    for sheet, selective in found.selective.items():
        metrics[f"localiser/selective_share/{sheet}"] = float(selective.mean())
        metrics[f"localiser/clusters/{sheet}"] = float(selective_clusters(found.t[sheet], selective).max())
        if selective.any():
            profile = response_profile({c: by_condition[c][sheet] for c in _CONDITIONS}, selective)
            metrics |= {f"localiser/response_{c}/{sheet}": value for c, value in profile.items()}
    return metrics
