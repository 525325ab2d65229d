"""LokiModel: the peft tuner that puts LokiLayers in place of down projections."""

from __future__ import annotations

import re
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from iclr_repro.loki.config import LokiConfig
from iclr_repro.loki.decoder import TARGET_MODULES
from iclr_repro.loki.layer import LokiLayer
from iclr_repro.loki.registration import register

_LAYER = re.compile(r"(?:.*\.)?(?:layers|h|blocks|block)\.(\d+)\.")


class LokiModel(BaseTuner):
    """A model with LoKI adapters; made by `peft.get_peft_model(model, LokiConfig(...))`.

    Everything but the adapters' rows is frozen. Layers without rows are left alone. An adapter's file holds k x f
    numbers a layer (and k of a bias).

    Raises:
        ValueError: positions for another number of layers, a module that does not exist, a row outside a layer, or a
            model type whose down projections are not known and not named by `target_modules`.
    """

    prefix = "loki_"
    tuner_layer_cls = LokiLayer
    target_module_mapping = {name: list(modules) for name, modules in TARGET_MODULES.items()}  # noqa: RUF012

    def _prepare_adapter_config(self, peft_config: LokiConfig, model_config: dict[str, Any]) -> LokiConfig:
        known = model_config.get("model_type") in self.target_module_mapping
        if peft_config.target_modules is None and not known:
            if isinstance(peft_config.active_pos, dict):
                peft_config.target_modules = set(peft_config.active_pos)  # type: ignore[assignment]
                return peft_config
            raise ValueError(
                f"the down projections of model type {model_config.get('model_type')!r} are not known: name them by"
                f" target_modules, e.g. ['down_proj']. Known: {', '.join(TARGET_MODULES)}"
            )
        return super()._prepare_adapter_config(peft_config, model_config)

    def _prepare_model(self, peft_config: LokiConfig, model: nn.Module) -> None:
        """Refuse positions that do not belong to the model."""
        names = [name for name, _ in model.named_modules() if self._check_target_module_exists(peft_config, name)]
        positions = peft_config.active_pos
        if isinstance(positions, dict):
            if unknown := sorted(set(positions) - set(names)):
                raise ValueError(
                    f"active_pos names {unknown[0]!r}, which is no target of this model: expected names such as"
                    f" {', '.join(names[:2]) or 'none (no module matches target_modules)'}"
                )
            return
        assert positions is not None
        layers = {layer for name in names if (layer := _layer_of(name)) is not None}
        chosen = peft_config.layers_to_transform is not None
        if not layers or (len(positions) != len(layers) and not (chosen and max(layers) < len(positions))):
            raise ValueError(
                f"active_pos holds {len(positions)} layers, the model has {len(layers)}: were they selected for"
                " another model?"
            )

    def _create_and_replace(
        self,
        peft_config: LokiConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        rows = _rows_of(peft_config, current_key)
        if not rows:
            return
        options: Any = {
            "lora_r": peft_config.lora_r,
            "lora_alpha": peft_config.lora_alpha,
            "inference_mode": peft_config.inference_mode,
        }
        if isinstance(target, LokiLayer):
            target.update_layer(adapter_name, rows, **options)
            return
        replacement = LokiLayer(target, adapter_name, rows, **options)
        if adapter_name not in self.active_adapters:
            replacement.requires_grad_(False)
        self._replace_module(parent, target_name, replacement, target)


def _rows_of(config: LokiConfig, name: str) -> list[int]:
    if isinstance(config.active_pos, dict):
        return config.active_pos.get(name, [])
    layer = _layer_of(name)
    assert config.active_pos is not None
    return [] if layer is None else config.active_pos[layer]


def _layer_of(name: str) -> int | None:
    match = _LAYER.match(name)
    return int(match[1]) if match else None


register(LokiConfig, LokiModel)
