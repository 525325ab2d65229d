"""L2X: a selector trained with a variational classifier of one output (sheet 3.1)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from iclr_repro.soi_nter.explainer import AmortisedExplainer, BlackBox
from iclr_repro.soi_nter.selector import relaxed_top_k

HEAD = 200


class L2X(AmortisedExplainer):
    """Learning to explain: choose features from which a classifier can tell the target output.

    Loss: binary cross-entropy of a 200-200 network with batch norm on x ⊙ z against sb(x)_t, joint with the selector.
    Its training never asks the black box about masked inputs. The authors' code has SELU for additive data, an L2
    penalty and a softmax; here as in the sheet ReLU, none, and one logit. The selector is chosen as for SOInter.

    Args:
        black_box, n_features, n_outputs, target, k: see `AmortisedExplainer`; one target.
        tau: temperature, 0.1 in the authors' code.
        batch_size: inputs of a step.
        head: units of the classifier's hidden layers.
        options: of `AmortisedExplainer`.

    Raises:
        ValueError: an argument does not fit.
    """

    def __init__(
        self,
        black_box: BlackBox,
        n_features: int,
        n_outputs: int,
        target: int,
        k: int,
        *,
        tau: float = 0.1,
        batch_size: int = 200,
        head: int = HEAD,
        **options: Any,
    ) -> None:
        if not isinstance(target, int):
            raise ValueError(f"target: got {target!r}, expected one output, 0 to {n_outputs - 1}")
        self._head = head
        super().__init__(black_box, n_features, n_outputs, target, k, tau=tau, batch_size=batch_size, **options)

    def _build(self) -> dict[str, nn.Module]:
        self.classifier = variational_classifier(self.n_features, head=self._head)
        return {"classifier": self.classifier}

    def _update(self) -> dict[str, float]:
        x_BD, y_BM, target_B = self._batch()
        relaxed_BN = relaxed_top_k(self.selector(x_BD, target_B), self.k, self.tau, generator=self._generator)
        logits_B: Tensor = self.classifier(self.masked(x_BD, relaxed_BN))[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits_B, y_BM.gather(1, target_B[:, None])[:, 0])
        for optimizer in self._optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self._optimizers.values():
            optimizer.step()
        return {"classifier_loss": loss.item()}


def variational_classifier(n_features: int, *, head: int = HEAD) -> nn.Sequential:
    """Build the network that tells the target output from masked inputs: N -> head -> head -> 1 with batch norm."""
    return nn.Sequential(
        nn.Linear(n_features, head),
        nn.BatchNorm1d(head),
        nn.ReLU(),
        nn.Linear(head, head),
        nn.BatchNorm1d(head),
        nn.ReLU(),
        nn.Linear(head, 1),
    )
