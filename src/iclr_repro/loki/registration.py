"""Making "LOKI" a type of method that peft knows.

peft keeps its methods in an enumeration without a public way to add one (peft issue 2273), so that this module extends
the enumeration when it is imported. Doing so twice changes nothing. To be removed once peft accepts methods from
outside.
"""

from __future__ import annotations

import warnings
from typing import Any

import peft
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

_NAME = "LOKI"


def _member() -> Any:
    """Return the member LOKI of peft's enumeration, adding it if need be; the plain name where that is impossible."""
    if _NAME in PeftType.__members__:
        return PeftType[_NAME]
    try:
        member = str.__new__(PeftType, _NAME)
        member._name_ = member._value_ = _NAME
        member.__objclass__ = PeftType
        member._sort_order_ = len(PeftType.__members__)
        PeftType._member_map_[_NAME] = member
        PeftType._value2member_map_[_NAME] = member
        PeftType._member_names_.append(_NAME)
        type.__setattr__(PeftType, _NAME, member)
    except (AttributeError, TypeError) as error:
        _warn(error)
        return _NAME
    return member


def register(config_cls: type[Any], model_cls: type[Any]) -> None:
    """Register the method with peft, once.

    Where the installed peft does not allow it, a warning says so; `LokiModel(model, config, "default")` works all the
    same, `get_peft_model` and `PeftModel.from_pretrained` do not.
    """
    if LOKI in PEFT_TYPE_TO_TUNER_MAPPING:
        return
    try:
        register_peft_method(name=_NAME.lower(), config_cls=config_cls, model_cls=model_cls, prefix="loki_")
    except (KeyError, ValueError, TypeError) as error:
        _warn(error)


def _warn(error: Exception) -> None:
    warnings.warn(
        f"peft {peft.__version__} does not accept a method from outside ({error}): get_peft_model and"
        ' PeftModel.from_pretrained will not know LokiConfig. Use LokiModel(model, config, "default"), or peft 0.21',
        stacklevel=3,
    )


LOKI = _member()
