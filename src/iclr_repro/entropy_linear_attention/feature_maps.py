"""Feature maps phi: what queries and keys pass through before their dot product is taken (sheet M4)."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from iclr_repro.entropy_linear_attention._choices import chosen

FeatureMap = Callable[[Tensor], Tensor]


def elu1(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """phi(x) = elu(x) + 1 > 0, of Katharopoulos et al. (2020).

    Its mean score exceeds 1 at the usual scale, so that theta is nearly always clamped to 0 (sheet M4).
    """
    return functional.elu(x) + 1.0


def identity(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """phi(x) = x: the scores of softmax attention itself. They are signed: linear weights may become negative."""
    return x


FEATURE_MAPS: dict[str, FeatureMap] = {"relu": functional.relu, "elu1": elu1, "identity": identity}
"""The feature maps by name; "relu", whose scores are not negative and have a small mean, is the default everywhere."""


def feature_map_of(name: str | FeatureMap) -> FeatureMap:
    """Return a feature map by its name; a function of one tensor is returned as it is.

    Raises:
        ValueError: there is no feature map of this name.
    """
    return chosen("feature_map", name, FEATURE_MAPS)
