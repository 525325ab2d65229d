"""Segmentation of horses by a convolutional value network: which super-pixels decide one pixel (sheet 4.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from iclr_repro.core.data import DATA_CHOICE, DataChoice, real_or_synthetic
from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.soi_nter import figures
from iclr_repro.soi_nter.data import load_horses, synthetic_horses
from iclr_repro.soi_nter.energy import ConvEnergy, EnergyKind
from iclr_repro.soi_nter.experiments._explaining import OfExplainers, energy_network, faithfulness, seed_of, top_k
from iclr_repro.soi_nter.structured_models import AscentModel, StructuredTraining, overlap

_SIDE, _IMAGE, _FAR = 24, 32, 6.0  # crops, images, pixels from the target that count as context
_SHOWN = 6
_SYNTHETIC = 30


@dataclass(frozen=True, kw_only=True)
class Segmentation(OfExplainers):
    """Explain the pixel whose answer varies most by a few super-pixels."""

    data: DataChoice = parameter(DATA_CHOICE)
    channels: tuple[int, int, int] = parameter("of the black box's convolutions (64, 128, 128 in SEAL)", low=1)
    dense: int = parameter("units of the black box's first dense layer", low=2)
    model_steps: int = parameter("updates of the black box", low=1)
    model_batch: int = parameter("crops of an update of the black box", low=1)
    ascent_step: float = parameter("step size of the search for masks", low=0.0)
    model_rate: float = parameter("learning rate of the black box, Adam", low=0.0)
    block: int = parameter("side of a super-pixel; 1: single pixels", unit="pixels", low=1)
    k: int = parameter("super-pixels to select", low=1)
    offsets: tuple[int, ...] = parameter("of training crops, both ways", unit="pixels", low=0, high=_IMAGE - _SIDE)
    energy: EnergyKind = parameter("of SOInter; its target-only control is an mlp")

    def run(self, run: Run) -> Result:
        """Train the black box, explain it, and measure faithfulness and the share of context."""
        horses, kind = real_or_synthetic(
            self.data, load_horses, lambda: synthetic_horses(_SYNTHETIC, rng=run.rng("data"))
        )
        x, y = (torch.cat(parts).to(run.device) for parts in zip(*self._crops(*horses.train), strict=True))
        middle = (_IMAGE - _SIDE) // 2
        x_test, y_test = (part.to(run.device) for part in _crop(*horses.test, middle, middle))
        centre, deviation = x.mean(), x.std()
        x, x_test = (x - centre) / deviation, (x_test - centre) / deviation
        black_box = self._black_box(run, x, y)
        answered, answered_test = black_box(x), black_box(x_test)
        # The pixel whose answer on the training crops is nearest to half ones: there is most to explain.
        target = int((answered.mean(dim=0) - 0.5).abs().argmin())
        found = Measurements()
        found.add("black_box/iou", float(overlap(answered_test, y_test, "iou").mean()))
        found.add("black_box/iou_of_all_ones", float(overlap(torch.ones_like(y_test), y_test, "iou").mean()))
        found.add("black_box/target_share", float(answered_test[:, target].mean()))
        groups = self._groups()
        far = _far_blocks(groups, target)
        masks = self._masks(run, black_box, x, x_test, groups, target)
        rows = {}
        for name, mask in masks.items():
            row = faithfulness(
                lambda points: black_box(points)[:, target],
                x_test,
                mask[:, groups],
                own_B=answered_test[:, target],
                truth_B=y_test[:, target],
            )
            row["context_share"] = float((mask * far).sum() / mask.sum())
            rows[name] = row
            for quantity, value in row.items():
                found.add(f"{name}/{quantity}", value)
        found.add("n", len(x_test))
        found.add("super_pixels", int(groups.max()) + 1)
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
        shown = {name: mask[:_SHOWN, groups[: _SIDE**2]].cpu().numpy() for name, mask in masks.items()}
        images = (x_test[:_SHOWN] * deviation + centre).reshape(-1, 3, _SIDE, _SIDE).permute(0, 2, 3, 1)
        overlays = figures.overlays(
            images.clamp(0, 1).cpu().numpy(),
            answered_test[:_SHOWN].reshape(-1, _SIDE, _SIDE).cpu().numpy(),
            {name: mask.reshape(-1, _SIDE, _SIDE) for name, mask in shown.items() if name != "random"},
            divmod(target, _SIDE),
        )
        return found.result(tables={"methods": table}, figures={"horses": overlays}, data=kind)

    def _crops(self, images: np.ndarray, masks: np.ndarray) -> list[tuple[Tensor, Tensor]]:
        return [_crop(images, masks, top, left) for top in self.offsets for left in self.offsets]

    def _black_box(self, run: Run, x: Tensor, y: Tensor) -> AscentModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(run, "black box"))
            energy = self._energy().to(run.device)
            optimizer = torch.optim.Adam(energy.parameters(), lr=self.model_rate)
            training = StructuredTraining(
                energy,
                x,
                y,
                loss="value",
                optimizer=optimizer,
                batch_size=self.model_batch,
                seed=seed_of(run, "black box"),
                quality="iou",
                step_size=self.ascent_step,
            )
            run.fit(training, self.model_steps, name="black_box", log_every=20)
        return AscentModel(energy, value=True, step_size=self.ascent_step)

    def networks(self) -> Iterator[Network]:
        """Describe the black box and the networks of an explainer."""
        n, m = 3 * _SIDE**2, _SIDE**2
        yield energy_network("black box", self._energy, self.model_batch, n, m)
        blocks = (-(-_SIDE // self.block)) ** 2
        yield from self.networks_of("", n, m, energy=self.energy, energy_of_target="mlp", n_features=blocks)

    def _energy(self) -> ConvEnergy:
        return ConvEnergy(_SIDE, channels=self.channels, dense=self.dense)

    def _groups(self) -> Tensor:
        place = torch.arange(_SIDE) // self.block
        blocks = int(place.max()) + 1
        return (place[:, None] * blocks + place).flatten().repeat(3)

    def _masks(
        self, run: Run, black_box: AscentModel, x: Tensor, x_test: Tensor, groups: Tensor, target: int
    ) -> dict[str, Tensor]:
        common = {
            "n_outputs": _SIDE**2,
            "target": target,
            "k": self.k,
            "where": "horses",
            "groups": groups.tolist(),
        }
        masks = {}
        for name, options in self.variants.items():
            energy = self.energy if options.get("structured", True) else "mlp"
            explainer = self.soi_nter(run, name, black_box, x, energy=energy, **common)  # type: ignore[arg-type]
            masks[name] = explainer.explain(x_test)
        for name in self.l2x:
            masks[name] = self.learned_to_explain(run, name, black_box, x, **common).explain(x_test)  # type: ignore[arg-type]
        num = int(groups.max()) + 1
        contrast = torch.zeros(len(x_test), num, device=x.device).index_add_(1, groups.to(x.device), x_test.abs())
        near = -_distances(groups, target).to(x_test).expand(len(x_test), -1)
        scores = {**self.plain_scores(run, contrast, "horses"), "nearest": near}
        return masks | {name: top_k(run, found, self.k, f"horses/{name}") for name, found in scores.items()}


def _crop(images: np.ndarray, masks: np.ndarray, top: int, left: int) -> tuple[Tensor, Tensor]:
    """Return flattened crops [num, 3 S^2] in [0, 1], channels first, and masks [num, S^2]."""
    window = np.s_[:, top : top + _SIDE, left : left + _SIDE]
    x = torch.from_numpy(images[window].astype(np.float32) / 255.0).permute(0, 3, 1, 2).flatten(1)
    return x, torch.from_numpy(masks[window].astype(np.float32)).flatten(1)


def _distances(groups: Tensor, target: int) -> Tensor:
    """Return the distance of each super-pixel's nearest pixel from the target, in pixels."""
    row, column = divmod(target, _SIDE)
    pixels = torch.arange(_SIDE**2)
    distance = torch.hypot((pixels // _SIDE - row).float(), (pixels % _SIDE - column).float())
    return torch.full((int(groups.max()) + 1,), torch.inf).scatter_reduce_(
        0, groups[: _SIDE**2], distance, reduce="amin"
    )


def _far_blocks(groups: Tensor, target: int) -> Tensor:
    return (_distances(groups, target) > _FAR).float()
