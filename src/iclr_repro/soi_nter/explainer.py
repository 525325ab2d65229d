"""What explainers with a selector network share: training data, the two masks, validation, explanations, files.

Such an explainer is a `core.loop.Learner` once `prepare` has given it inputs; `fit` runs it without a run folder.
Shape letters: B = inputs, N = features, M = outputs, K = features to select, D = entries of an input.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from iclr_repro.soi_nter.black_boxes import QueriedBlackBox
from iclr_repro.soi_nter.metrics import agreement
from iclr_repro.soi_nter.selector import Selector, hard_top_k

BlackBox = Callable[[Tensor], Any]
Target = int | Literal["all"]

_VALIDATION_SHARE = 10  # one input in so many is kept for choosing the selector


class AmortisedExplainer:
    """A selector network that gives the k features of any input in one forward pass, trained by a subclass.

    Every `validate_every` steps the masks are tried on the last tenth of the inputs, which is not trained on, and in
    the end the selector with the best post-hoc accuracy there is kept (the latest of equals).

    Args:
        black_box: takes [B, D] inputs, returns [B, M] zeros and ones; asked only, no gradients.
        n_features: D, entries of an input.
        n_outputs: M.
        target: index of the output to explain, 0 to M - 1, or "all" for one selector for all outputs.
        k: features to select, 1 to the number of features.
        hidden: units of the selector's hidden layers.
        tau: temperature of the relaxed masks.
        learning_rate: of Adam.
        batch_size: inputs of a step, drawn with replacement.
        steps: of the selector.
        groups: feature of each entry of an input, [D] (super-pixels, say); None: each entry is a feature.
        baseline: what unselected entries become, [D]; None: 0, the mean of standardised features.
        validate_every: steps.
        keep: "best" by validation, or the "last" selector.
        seed: of weights, batches and masks.
        device: where to compute.

    Attributes:
        last: weights of the selector after the last step, whichever is kept.
        black_box: with its counter of queries, `black_box.queries`.
        validation: best post-hoc accuracy on the validation inputs so far.

    Raises:
        ValueError: k, target, groups or baseline do not fit.
    """

    total_steps: int

    def __init__(
        self,
        black_box: BlackBox,
        n_features: int,
        n_outputs: int,
        target: Target,
        k: int,
        *,
        hidden: int = 100,
        tau: float = 0.5,
        learning_rate: float = 1e-3,
        batch_size: int = 128,
        steps: int = 1000,
        groups: Sequence[int] | None = None,
        baseline: Tensor | None = None,
        validate_every: int = 100,
        keep: Literal["best", "last"] = "best",
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if target != "all" and not (isinstance(target, int) and 0 <= target < n_outputs):
            raise ValueError(f"target: got {target!r}, expected an output, 0 to {n_outputs - 1}, or 'all'")
        self.device = torch.device(device)
        self.groups = torch.arange(n_features) if groups is None else torch.as_tensor(groups).long()
        if self.groups.shape != (n_features,) or sorted(set(self.groups.tolist())) != list(
            range(int(self.groups.max()) + 1)
        ):
            raise ValueError(f"groups: expected {n_features} indices that use each of 0 to the largest one")
        self.groups = self.groups.to(self.device)
        self.num_selectable = int(self.groups.max()) + 1
        if not 1 <= k <= self.num_selectable:
            raise ValueError(f"k: got {k}, expected 1 to the number of features, {self.num_selectable}")
        if not tau > 0.0 or batch_size < 1 or steps < 1 or validate_every < 1:
            raise ValueError(
                f"tau, batch_size, steps, validate_every: got {tau}, {batch_size}, {steps}, {validate_every},"
                " expected tau > 0 and the others >= 1"
            )
        self.baseline = torch.zeros(n_features) if baseline is None else baseline.detach().float()
        if self.baseline.shape != (n_features,):
            raise ValueError(f"baseline: got shape {list(self.baseline.shape)}, expected [{n_features}]")
        self.baseline = self.baseline.to(self.device)
        self.black_box = QueriedBlackBox(black_box, n_outputs)
        self.n_features, self.n_outputs, self.target, self.k = n_features, n_outputs, target, k
        self.hidden, self.tau, self.learning_rate, self.batch_size = hidden, tau, learning_rate, batch_size
        self.steps, self.validate_every, self.keep, self.seed = steps, validate_every, keep, seed
        self.total_steps = steps
        self._x: Tensor | None = None
        self._start(0)

    # ----- what a subclass gives ------------------------------------------------------------------------------------

    def _build(self) -> dict[str, nn.Module]:
        """Make the further networks."""
        raise NotImplementedError

    def _update(self) -> dict[str, float]:
        """Make one step of training; return its metrics."""
        raise NotImplementedError

    # ----- training -------------------------------------------------------------------------------------------------

    def _start(self, attempt: int) -> None:
        """Fresh networks, optimisers and random draws."""
        seed = self.seed + 1_000_003 * attempt
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            selector = Selector(
                self.n_features,
                self.num_selectable,
                hidden=self.hidden,
                n_targets=self.n_outputs if self.target == "all" else None,
            )
            self._networks = {"selector": selector, **self._build()}
        for network in self._networks.values():
            network.to(self.device)
        self.selector = selector
        self._optimizers = {
            name: torch.optim.Adam(network.parameters(), lr=self.learning_rate, fused=True)
            for name, network in self._networks.items()
        }
        self._done = 0
        self.validation = -1.0
        self._best = copy.deepcopy(self.selector.state_dict())
        self.last = self._best

    def prepare(self, x: Tensor | np.ndarray) -> None:
        """Take the inputs to train on, [num, D] and finite, and ask the black box about each once.

        Raises:
            ValueError: the inputs do not fit, or the target is the same for all of them.
        """
        x_BD = self._inputs(x)
        if len(x_BD) < 2 * _VALIDATION_SHARE:
            raise ValueError(f"got {len(x_BD)} inputs, expected at least {2 * _VALIDATION_SHARE} to train on")
        y_BM = torch.cat([self.black_box(part) for part in x_BD.split(4096)])
        varies_M = (y_BM != y_BM[0]).any(dim=0)
        if self.target != "all" and not varies_M[self.target]:
            raise ValueError(
                f"output {self.target} of the black box is {int(y_BM[0, self.target])} for all {len(x_BD)} inputs:"
                " there is nothing to explain; give other inputs or another target"
            )
        if not varies_M.any():
            raise ValueError(f"no output of the black box varies over the {len(x_BD)} inputs: nothing to explain")
        chosen = varies_M.nonzero()[:, 0] if self.target == "all" else torch.tensor([self.target])
        self._targets = chosen.to(self.device)
        held_out = len(x_BD) // _VALIDATION_SHARE
        self._x, self._y = x_BD[:-held_out], y_BM[:-held_out]
        self._x_val, self._y_val = x_BD[-held_out:], y_BM[-held_out:]

    def fit(self, x: Tensor | np.ndarray, *, restarts: int = 1) -> None:
        """Train on inputs [num, D].

        Args:
            x: the inputs.
            restarts: trainings from different first weights; the one with the best validation stays.

        Raises:
            ValueError: see `prepare`; or `restarts` is below 1.
        """
        if restarts < 1:
            raise ValueError(f"restarts: got {restarts}, expected >= 1")
        self.prepare(x)
        best: tuple[float, dict[str, Any]] | None = None
        for attempt in range(restarts):
            self._start(attempt)
            for _ in range(self.total_steps):
                self.step()
            if best is None or self.validation > best[0]:
                best = self.validation, copy.deepcopy(self.state_dict())
        assert best is not None
        spent = self.black_box.queries
        self.load_state_dict(best[1])
        self.black_box.queries = spent  # of all trainings

    def step(self) -> dict[str, float]:
        """Make one step; after the last one the selector to keep is in place.

        Raises:
            RuntimeError: there are no inputs yet (`prepare`), or the training is over.
        """
        if self._x is None:
            raise RuntimeError("no inputs to train on: call prepare(x) before step, or fit(x)")
        if self._done == self.total_steps:
            raise RuntimeError(f"all {self.total_steps} steps are done")
        found = self._update()
        self._done += 1
        done = self._done - (self.total_steps - self.steps)
        last = self._done == self.total_steps
        if last or (done > 0 and done % self.validate_every == 0):
            self._validate()
        if last:
            self.last = copy.deepcopy(self.selector.state_dict())
            if self.keep == "best":
                self.selector.load_state_dict(self._best)
        return found

    def _validate(self) -> None:
        target_B = self._targets[torch.arange(len(self._x_val), device=self.device) % len(self._targets)]
        answered = self.black_box(self.masked(self._x_val, self._explained(self._x_val, target_B)))
        found = agreement(*(y.gather(1, target_B[:, None])[:, 0] for y in (answered, self._y_val)))
        if found >= self.validation:
            self.validation = found
            self._best = copy.deepcopy(self.selector.state_dict())

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draw rows with replacement; return inputs [B, D], answers [B, M] and targets [B]."""
        assert self._x is not None
        rows = torch.randint(len(self._x), (self.batch_size,), generator=self._generator).to(self.device)
        if len(self._targets) == 1:
            return self._x[rows], self._y[rows], self._targets.expand(self.batch_size)
        drawn = torch.randint(len(self._targets), (self.batch_size,), generator=self._generator).to(self.device)
        return self._x[rows], self._y[rows], self._targets[drawn]

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on, besides the inputs."""
        return {
            "networks": {name: dict(network.state_dict()) for name, network in self._networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "generator": self._generator.get_state(),
            "best": dict(self._best),
            "last": dict(self.last),
            "validation": self.validation,
            "done": self._done,
            "queries": self.black_box.queries,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, network in self._networks.items():
            network.load_state_dict(state["networks"][name])
            self._optimizers[name].load_state_dict(state["optimizers"][name])
        self._generator.set_state(state["generator"])
        self._best, self.last = dict(state["best"]), dict(state["last"])
        self.validation, self._done = state["validation"], state["done"]
        self.black_box.queries = state["queries"]

    # ----- explanations ---------------------------------------------------------------------------------------------

    def masked(self, x_BD: Tensor, mask_BN: Tensor) -> Tensor:
        """Return the inputs with unselected entries replaced by the baseline; masks may be relaxed."""
        mask_BD = mask_BN if self.num_selectable == self.n_features else mask_BN[:, self.groups]
        return mask_BD * x_BD + (1.0 - mask_BD) * self.baseline

    @torch.no_grad()
    def scores(self, x: Tensor | np.ndarray, *, target: int | None = None) -> Tensor:
        """Return [B, N] the logits that rank the features; `target` where one selector explains all outputs.

        Raises:
            ValueError: the inputs or the target do not fit.
        """
        x_BD = self._inputs(x)
        logits_BN: Tensor = self.selector(x_BD, self._target_rows(target, len(x_BD)))
        return logits_BN

    def explain(self, x: Tensor | np.ndarray, *, target: int | None = None, k: int | None = None) -> Tensor:
        """Return [B, N] masks with exactly k ones, from one forward pass and without asking the black box.

        Raises:
            ValueError: the inputs, the target or k do not fit.
        """
        return hard_top_k(self.scores(x, target=target), self.k if k is None else k)

    def attribute(self, inputs: Tensor, target: int | None = None) -> Tensor:
        """Explain as captum's methods do: a tensor of the inputs' shape, 1 where an entry is selected.

        Raises:
            ValueError: the inputs or the target do not fit.
        """
        flat = inputs.reshape(len(inputs), -1)
        return self.explain(flat, target=target)[:, self.groups].reshape(inputs.shape).to(inputs)

    def save(self, path: Path | str) -> None:
        """Write all networks and the state of the training to a file."""
        torch.save(self.state_dict(), path)

    def load(self, path: Path | str) -> None:
        """Read a file of `save` into an explainer made with the same arguments.

        Raises:
            ValueError: the file is from an explainer of other sizes.
        """
        state = torch.load(path, weights_only=True, map_location=self.device)
        state["generator"] = state["generator"].cpu()
        try:
            self.load_state_dict(state)
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"{path} does not fit this explainer: {error}") from error

    def _explained(self, x_BD: Tensor, target_B: Tensor) -> Tensor:
        with torch.no_grad():
            return hard_top_k(self.selector(x_BD, target_B), self.k)

    def _target_rows(self, target: int | None, num: int) -> Tensor:
        if self.target == "all":
            if target is None or not 0 <= target < self.n_outputs:
                raise ValueError(f"target: got {target}, expected which of the {self.n_outputs} outputs to explain")
            chosen = target
        elif target not in (None, self.target):
            raise ValueError(f"target: got {target}, but this explainer was made for output {self.target}")
        else:
            chosen = self.target
        return torch.full((num,), chosen, device=self.device)

    def _inputs(self, x: Tensor | np.ndarray) -> Tensor:
        x_BD = torch.as_tensor(x).to(self.device, torch.float32)
        if x_BD.ndim != 2 or x_BD.shape[1] != self.n_features:
            raise ValueError(f"x: got shape {list(x_BD.shape)}, expected [inputs, {self.n_features}]")
        if not torch.isfinite(x_BD).all():
            raise ValueError(f"x: {int((~torch.isfinite(x_BD)).sum())} entries are not finite: fill or drop them")
        return x_BD
