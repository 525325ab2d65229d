"""What the experiments share: the fields of a training, explainers by name, and what a mask is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iclr_repro.core.experiment import parameter
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.rundir import Run
from iclr_repro.soi_nter.baselines import kernel_shap, lime_tabular, random_scores
from iclr_repro.soi_nter.energy import MAX_EXACT_OUTPUTS, EnergyKind, EnergyModule, make_energy
from iclr_repro.soi_nter.explainer import AmortisedExplainer, Target
from iclr_repro.soi_nter.interpreter import SOInter
from iclr_repro.soi_nter.l2x import L2X, variational_classifier
from iclr_repro.soi_nter.metrics import agreement, f1_score, ranks
from iclr_repro.soi_nter.selector import Selector

Options = dict[str, str | bool]
_LOG_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class OfExplainers:
    """The fields of training explainers and of the methods beside them; see `SOInter` and `L2X`."""

    variants: dict[str, Options] = parameter("name -> options of SOInter; each objective with its target-only control")
    hidden: int = parameter("units of the hidden layers of selectors and energies", low=1)
    tau: float = parameter("temperature of SOInter's masks", low=0.0)
    learning_rate: float = parameter("of Adam, all networks", low=0.0)
    batch_size: int = parameter("inputs of a step of SOInter", low=1)
    pretrain_steps: int = parameter("N0, of the energy before the selector's first", low=0)
    steps: int = parameter("N, alternating", low=1)
    validate_every: int = parameter("steps between trials of the masks on inputs that are not trained on", low=1)
    l2x: dict[str, int] = parameter("name -> steps of L2X, its budgets")
    l2x_tau: float = parameter("temperature of L2X's masks", low=0.0)
    l2x_batch: int = parameter("inputs of a step of L2X", low=2)
    lime_samples: int = parameter("perturbations an input of LIME", low=10)
    shap_samples: int = parameter("coalitions of Kernel-SHAP beyond 12 features", low=10)
    slow_inputs: int = parameter("test inputs that LIME and Kernel-SHAP explain", low=1)

    def soi_nter(
        self,
        run: Run,
        name: str,
        black_box: Callable[[Tensor], Any],
        x: Tensor,
        *,
        n_outputs: int,
        target: Target,
        k: int,
        where: str,
        energy: EnergyKind = "mlp",
        **more: Any,
    ) -> SOInter:
        """Train a variant; all of one place start from the same selector and see the same batches."""
        options: dict[str, Any] = {"energy": energy, **more, **self.variants[name]}
        explainer = SOInter(
            black_box,
            x.shape[1],
            n_outputs,
            target,
            k,
            hidden=self.hidden,
            tau=options.pop("tau", self.tau),
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            pretrain_steps=self.pretrain_steps,
            steps=self.steps,
            validate_every=self.validate_every,
            seed=seed_of(run, "explainers"),
            device=run.device,
            **options,
        )
        return self.fitted(run, explainer, x, f"{where}_{name}")

    def learned_to_explain(
        self,
        run: Run,
        name: str,
        black_box: Callable[[Tensor], Any],
        x: Tensor,
        *,
        n_outputs: int,
        target: int,
        k: int,
        where: str,
        **more: Any,
    ) -> L2X:
        """Train L2X with a budget."""
        explainer = L2X(
            black_box,
            x.shape[1],
            n_outputs,
            target,
            k,
            hidden=self.hidden,
            tau=self.l2x_tau,
            learning_rate=self.learning_rate,
            batch_size=self.l2x_batch,
            steps=self.l2x[name],
            validate_every=self.validate_every,
            seed=seed_of(run, "explainers"),
            device=run.device,
            **more,
        )
        return self.fitted(run, explainer, x, f"{where}_{name}")

    def networks_of(
        self,
        where: str,
        n_inputs: int,
        n_outputs: int,
        *,
        energy: EnergyKind = "mlp",
        energy_of_target: EnergyKind | None = None,
        n_features: int | None = None,
    ) -> Iterator[Network]:
        """Describe the networks of one place: the selector, which L2X has as well, and what trains it.

        Args:
            where: its name, empty where there is one place.
            n_inputs: entries of an input.
            n_outputs: of the black box.
            energy: of SOInter.
            energy_of_target: of its target-only controls; None: as the others.
            n_features: where they are groups of entries.
        """
        build = partial(Selector, n_inputs, n_features or n_inputs, hidden=self.hidden)
        x_BN, target_B = example(self.batch_size, n_inputs), example(self.batch_size, dtype=torch.int64)
        yield Network(name=f"{where} selector".strip(), build=build, inputs={"x_BN": x_BN, "target_B": target_B})
        for name, options in self.variants.items():
            structured = bool(options.get("structured", True))
            kind: Any = options.get("energy", energy if structured else energy_of_target or energy)
            modelled = n_outputs if structured else 1
            yield energy_network(
                f"{where} {name} energy".strip(),
                partial(make_energy, kind, n_inputs, modelled, hidden=self.hidden),
                2 * self.batch_size,
                n_inputs,
                modelled,
            )
        if self.l2x:
            build_classifier = partial(variational_classifier, n_inputs)
            inputs = {"input": example(self.l2x_batch, n_inputs)}
            yield Network(name=f"{where} L2X classifier".strip(), build=build_classifier, inputs=inputs)

    def fitted(self, run: Run, explainer: Any, x: Tensor, stage: str) -> Any:
        """Train an explainer by the one loop."""
        explainer.prepare(x)
        explainer.history = run.fit(explainer, explainer.total_steps, name=stage, log_every=_LOG_EVERY)
        return explainer

    def slow_scores(self, run: Run, function: Callable[[Tensor], Tensor], x: Tensor, where: str) -> dict[str, Tensor]:
        """Return |coefficients| of LIME and |phi| of Kernel-SHAP for inputs."""
        lime = lime_tabular(function, x, n_samples=self.lime_samples, generator=run.torch_rng(f"lime/{where}"))
        shap = kernel_shap(function, x, n_samples=self.shap_samples, generator=run.torch_rng(f"shap/{where}"))
        return {"lime": lime.coefficients.abs(), "shap": shap.abs()}

    def plain_scores(self, run: Run, x: Tensor, where: str) -> dict[str, Tensor]:
        """Return random scores and |x|."""
        return {"random": random_scores(x, generator=run.torch_rng(f"random/{where}")), "largest": x.abs()}


def energy_network(
    name: str,
    build: Callable[[], EnergyModule],
    batch_size: int,
    n_inputs: int,
    n_outputs: int,
    *,
    optimizer_slots: int = 2,
) -> Network:
    """Describe an energy in training: of all answers to an input where they are few, otherwise of one."""
    few = n_outputs <= MAX_EXACT_OUTPUTS
    return Network(
        name=name,
        build=build,
        inputs={
            "x_BN": example(batch_size, n_inputs),
            "y": example(2**n_outputs, n_outputs) if few else example(batch_size, 1, n_outputs),
        },
        forward=lambda energy, x_BN, y: energy.of_candidates(x_BN, y),
        optimizer_slots=optimizer_slots,
        note="" if few else "one answer an input",
    )


def seed_of(run: Run, name: str) -> int:
    """Return a seed that depends on the run's seed and the name only."""
    return int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(run.seed))) + sum(name.encode())


def top_k(run: Run, scores_BN: Tensor, k: int, where: str) -> Tensor:
    """Return masks of the k largest scores, ties broken at random: to the lower index would favour x1, x2, ..."""
    return (ranks(scores_BN, generator=run.torch_rng(f"ties/{where}")) <= k).float()


def faithfulness(
    answer: Callable[[Tensor], Tensor],
    x_BD: Tensor,
    mask_BD: Tensor,
    *,
    own_B: Tensor,
    truth_B: Tensor | None = None,
) -> dict[str, float]:
    """Compare the target's answers on masked inputs with `own_B`, those on full ones, and with the truth where given.

    `answer` gives the target output [B]; unselected entries become 0. `occlusion_agreement` removes the selected ones
    instead: lower is better.
    """
    kept_B, removed_B = answer(x_BD * mask_BD), answer(x_BD * (1.0 - mask_BD))
    found = {
        "post_hoc_accuracy": agreement(kept_B, own_B),
        "post_hoc_f1": f1_score(own_B, kept_B),
        "occlusion_agreement": agreement(removed_B, own_B),
    }
    if truth_B is not None:
        full = f1_score(truth_B, own_B)
        found["truth_f1"] = f1_score(truth_B, kept_B)
        if full > 0:
            found["relative_f1"] = found["truth_f1"] / full
    return found


def training_report(explainer: AmortisedExplainer) -> dict[str, float]:
    """Return the queries spent and, for SOInter, the share of rows with a negative loss while alternating."""
    report = {"queries": float(explainer.black_box.queries)}
    if isinstance(explainer, SOInter):
        report["negative_share"] = float(explainer.history.values("negative").mean())  # type: ignore[attr-defined]
    return report
