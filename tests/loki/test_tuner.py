"""LoKI as a peft method: what it may change, what it saves, and how it lives with the rest of peft."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig
from peft.utils.peft_types import PeftType
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from iclr_repro.loki import LokiConfig, LokiLayer, LokiModel, down_projections, registration
from iclr_repro.loki.baselines import baseline_model, with_adapter, without_old_names
from iclr_repro.loki.decoder import dense_rows
from iclr_repro.loki.invariants import adapter_violations
from iclr_repro.loki.layer import _LinearWithRows
from tiny_models import prompts, tiny_model

ROWS = [[9, 2, 5], [], [0, 15]]
FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma", "opt", "gpt2"]


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids).logits
    return found


def adapted(family: str = "llama", rows: Any = None, **options: Any) -> Any:
    return with_adapter(tiny_model(family), LokiConfig(active_pos=rows or ROWS, task_type="CAUSAL_LM", **options))


def train(
    model: nn.Module, *, steps: int = 4, optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
) -> None:
    ids = prompts(3, 7)
    chosen = optimizer([p for p in model.parameters() if p.requires_grad], lr=0.02, weight_decay=0.1)
    for _ in range(steps):
        chosen.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        chosen.step()


def layers(model: nn.Module) -> list[LokiLayer]:
    return [module for module in model.modules() if isinstance(module, LokiLayer)]


# --- what training may change ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora_r", [None, 2])
def test_invariants_of_an_adapter(lora_r: int | None) -> None:
    torch.manual_seed(0)
    found = adapter_violations(tiny_model("llama"), ROWS, prompts(3, 7), steps=5, lora_r=lora_r)
    exact = {found.pop(name) for name in ("moved_elsewhere", "unmoved_rows", "loss_rise", "disabled", "saved")}
    assert exact == {0.0}
    assert max(found.values()) < 1e-5


def test_a_loss_that_is_not_a_number_has_not_fallen() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    found = adapter_violations(model, ROWS, prompts(3, 7), steps=2)
    assert found["loss_rise"] == 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_only_selected_rows_move_in_every_family(family: str) -> None:
    base, ids = tiny_model(family), prompts(2, 6)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    model = adapted(family)
    assert torch.equal(logits(model, ids), logits(base, ids))
    assert {p.shape[0] for p in model.parameters() if p.requires_grad} == {2, 3}
    train(model)
    tuned = logits(model, ids)
    assert not torch.allclose(tuned, logits(base, ids), atol=1e-3)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged, ids), tuned, rtol=0, atol=1e-5)
    selected = {projection.name: rows for projection, rows in zip(down_projections(base), ROWS, strict=True)}
    for name, value in merged.state_dict().items():
        module = name.rpartition(".")[0]
        changed = value != before[name]
        if module in selected:
            by_row = changed if changed.ndim == 1 else changed.T if family == "gpt2" else changed
            moved = by_row if by_row.ndim == 1 else by_row.any(dim=1)
            assert moved.nonzero().flatten().tolist() == sorted(selected[module]), name
        else:
            assert not changed.any(), name


def test_gradients_are_those_of_the_dense_weight_and_of_the_input() -> None:
    x, weight = torch.randn(2, 3, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    rows, bias = torch.randn(2, 6, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    given = [value.requires_grad_() for value in (x, rows, bias)]
    index = torch.tensor([1, 4])
    assert torch.autograd.gradcheck(lambda x, r, b: _LinearWithRows.apply(x, weight, r, index, b), given)
    dense = weight.index_copy(0, index, rows.detach()).requires_grad_()
    (expected,) = torch.autograd.grad(nn.functional.linear(x, dense, bias).square().sum(), dense)
    (found,) = torch.autograd.grad(_LinearWithRows.apply(x, weight, rows, index, bias).square().sum(), rows)
    torch.testing.assert_close(found, expected[index])


def test_stock_peft_trains_the_same_rows_to_the_same_numbers() -> None:
    """peft's trainable tokens train rows of any linear layer: an independent reference."""
    ids = prompts(3, 7)
    base = tiny_model("llama")
    names = [projection.name.removeprefix("model.") for projection in down_projections(base)]
    tokens = {name: rows for name, rows in zip(names, ROWS, strict=True) if rows}
    config = LoraConfig(r=1, target_modules=["q_proj"], trainable_token_indices=tokens, task_type="CAUSAL_LM")
    stock = with_adapter(copy.deepcopy(base), config)
    for name, parameter in stock.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(False)
    ours = adapted()
    for model in (stock, ours):
        train(model, steps=5, optimizer=torch.optim.AdamW)
    torch.testing.assert_close(logits(ours, ids), logits(stock, ids), rtol=0, atol=1e-5)
    trained = {name: p for name, p in stock.named_parameters() if p.requires_grad}
    assert len(trained) == 2
    for layer, (name, value) in zip(layers(ours), sorted(trained.items()), strict=True):
        stated = tokens[next(target for target in tokens if target in name)]
        order = [sorted(stated).index(row) for row in stated]
        torch.testing.assert_close(layer.loki_rows["default"][order], value, rtol=0, atol=1e-5)


# --- saving, loading, several adapters -------------------------------------------------------------------------------


def test_an_adapter_file_holds_the_rows_alone(tmp_path: Path) -> None:
    model = adapted("opt")
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sorted(tuple(value.shape) for value in saved.values()) == [(2,), (2, 24), (3,), (3, 24)]
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LOKI"
    assert config["active_pos"] == ROWS


def test_a_saved_adapter_is_found_in_a_new_process(tmp_path: Path) -> None:
    model = adapted()
    train(model)
    model.save_pretrained(tmp_path / "adapter")
    tiny_model("llama").save_pretrained(tmp_path / "base")
    torch.save(logits(model, prompts(2, 6)), tmp_path / "logits.pt")
    code = (
        "import sys, torch, iclr_repro.loki\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n"
        "from tiny_models import prompts\n"
        "folder = sys.argv[1]\n"
        "base = AutoModelForCausalLM.from_pretrained(folder + '/base')\n"
        "model = PeftModel.from_pretrained(base, folder + '/adapter')\n"
        "print(float((model(input_ids=prompts(2, 6)).logits - torch.load(folder + '/logits.pt')).abs().max()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


def test_positions_by_name_and_by_layer_are_the_same() -> None:
    names = [projection.name for projection in down_projections(tiny_model("llama"))]
    by_name = adapted(rows={name: rows for name, rows in zip(names, ROWS, strict=True) if rows})
    assert torch.equal(logits(by_name, prompts(2, 5)), logits(adapted(), prompts(2, 5)))
    assert [layer.loki_index["default"].tolist() for layer in layers(by_name)] == [[2, 5, 9], [0, 15]]


def test_layers_can_be_chosen() -> None:
    model = adapted(target_modules=["down_proj"], layers_to_transform=[2])
    assert [layer.loki_index["default"].tolist() for layer in layers(model)] == [[0, 15]]


def test_an_adapter_is_loaded_without_room_for_a_second_copy(tmp_path: Path) -> None:
    model = adapted()
    train(model)
    model.save_pretrained(tmp_path)
    with without_old_names():
        loaded = peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(logits(loaded, prompts(2, 6)), logits(model, prompts(2, 6)))


def test_several_adapters_can_be_switched_joined_and_deleted() -> None:
    ids = prompts(2, 6)
    model = adapted()
    untuned = logits(model, ids)
    train(model)
    first = logits(model, ids)
    model.add_adapter("second", LokiConfig(active_pos=[[1], [3], []], task_type="CAUSAL_LM"))
    model.set_adapter("second")
    assert torch.equal(logits(model, ids), untuned)
    train(model)
    second = logits(model, ids)
    model.set_adapter("default")
    assert torch.equal(logits(model, ids), first)
    model.base_model.set_adapter(["default", "second"])
    joined = logits(model, ids)
    assert not torch.allclose(joined, first)
    assert not torch.allclose(joined, second)
    model.merge_adapter()
    torch.testing.assert_close(logits(model, ids), joined, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    model.delete_adapter("second")
    assert torch.equal(logits(model, ids), first)


def test_adapters_that_replace_the_same_row_cannot_be_joined() -> None:
    model = adapted()
    model.add_adapter("second", LokiConfig(active_pos=[[2], [], []], task_type="CAUSAL_LM"))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match=r"adapters \['default', 'second'\] replace the same rows"):
        logits(model, prompts(1, 4))


@pytest.mark.parametrize("first", ["default", "second"])
def test_rows_and_a_low_rank_update_of_the_same_row_are_merged_as_they_are_applied(first: str) -> None:
    ids, model = prompts(2, 6), adapted()
    train(model)
    model.add_adapter("second", LokiConfig(active_pos=[[2, 3], [], []], lora_r=1, task_type="CAUSAL_LM"))
    with torch.no_grad():
        layers(model)[0].loki_lora_B["second"] += 1.0
    names = ["default", "second"] if first == "default" else ["second", "default"]
    model.base_model.set_adapter(names)
    joined = logits(model, ids)
    model.base_model.set_adapter("default")
    assert not torch.allclose(joined, logits(model, ids), atol=1e-3)
    model.base_model.set_adapter(names)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.merge_adapter(names)
    torch.testing.assert_close(logits(model, ids), joined, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:Already following adapters were merged:UserWarning")
def test_a_row_that_was_added_to_is_not_replaced() -> None:
    layer = LokiLayer(nn.Linear(4, 4), "low_rank", [1, 2], lora_r=1)
    layer.update_layer("rows", [2])
    layer.merge(adapter_names=["low_rank"])
    with pytest.raises(
        ValueError, match=r"'rows' would replace rows to which \['low_rank'\] have added: unmerge these"
    ):
        layer.merge(adapter_names=["rows"])


def test_disabling_gives_the_base_model() -> None:
    model, ids = adapted(), prompts(2, 6)
    untuned = logits(model, ids)
    train(model)
    tuned = logits(model, ids)
    with model.disable_adapter():
        assert torch.equal(logits(model, ids), untuned)
    assert torch.equal(logits(model, ids), tuned)


def test_unmerging_is_exact_in_half_precision() -> None:
    base = tiny_model("llama").to(torch.bfloat16)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    model = with_adapter(base, LokiConfig(active_pos=ROWS, task_type="CAUSAL_LM"))
    assert layers(model)[0].loki_rows["default"].dtype == torch.float32, "rows stay in float32, as peft's adapters do"
    train(model)
    model.merge_adapter()
    model.unmerge_adapter()
    assert all(torch.equal(value, before[name]) for name, value in model.unload().state_dict().items())


def test_rows_that_are_not_finite_are_not_merged() -> None:
    model = adapted()
    layer = layers(model)[0]
    with torch.no_grad():
        layer.loki_rows["default"][0, 0] = float("nan")
    with pytest.raises(ValueError, match="'default' has rows that are not finite"):
        model.merge_and_unload(safe_merge=True)


# --- with the rest of the world --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        base = tiny_model("llama")
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        model = with_adapter(base, LokiConfig(active_pos=ROWS, task_type="CAUSAL_LM"))
        model.train()
        model(input_ids=prompts(2, 6), labels=prompts(2, 6)).loss.backward()
        gradients.append([layer.loki_rows["default"].grad for layer in layers(model)])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_tied_embeddings_stay_tied() -> None:
    model = adapted("qwen2")
    assert model.get_input_embeddings().weight is model.base_model.model.lm_head.weight
    train(model)
    merged = model.merge_and_unload()
    assert merged.get_input_embeddings().weight is merged.lm_head.weight


def test_autocast_computes_in_half_precision() -> None:
    model = adapted()
    layer = layers(model)[0]
    x = torch.randn(2, 3, 24, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.loki_rows["default"].grad is not None
    assert layer.loki_rows["default"].grad.dtype == torch.float32


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*pin_memory.*")
def test_the_trainer_of_transformers_trains_it(tmp_path: Path) -> None:
    model = adapted()
    before = layers(model)[0].loki_rows["default"].detach().clone()
    rows = [{"input_ids": row, "labels": row} for row in prompts(8, 6)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    assert not torch.equal(layers(model)[0].loki_rows["default"], before)
    assert load_file(tmp_path / "checkpoint-2" / "adapter_model.safetensors")


def test_low_rank_updates_move_the_rows_within_their_rank() -> None:
    torch.manual_seed(0)
    rows = [list(range(8)), [], []]
    base = tiny_model("llama")
    model = with_adapter(copy.deepcopy(base), LokiConfig(active_pos=rows, lora_r=2, lora_alpha=4.0))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * (8 + 24)
    train(model)
    merged = model.merge_and_unload()
    delta = dense_rows(down_projections(merged)[0].module) - dense_rows(down_projections(base)[0].module)
    assert torch.linalg.matrix_rank(delta.detach(), tol=1e-5) == 2
    assert delta[8:].abs().max() == 0


@pytest.mark.parametrize("name", ["full", "lora", "dora", "pissa", "corda"])
def test_baselines_start_from_the_model(name: Any) -> None:
    base, ids = tiny_model("llama"), prompts(2, 6)
    untuned = logits(base, ids)
    torch.manual_seed(0)
    probes = prompts(60, 5)

    def preserve() -> None:
        for probe in probes:
            base(input_ids=probe[None])

    model = baseline_model(name, base, r=2, alpha=2.0, preserve=preserve)
    torch.testing.assert_close(logits(model, ids), untuned, rtol=0, atol=1e-4)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (trained == sum(p.numel() for p in base.parameters())) == (name == "full")
    assert not any("lm_head" in key and "lora" in key for key, _ in model.named_parameters())


# --- registration ----------------------------------------------------------------------------------------------------


def test_registration_happens_once() -> None:
    registration.register(LokiConfig, LokiModel)
    assert registration._member() is PeftType("LOKI")
    assert list(PeftType).count(PeftType["LOKI"]) == 1
    assert peft.PEFT_TYPE_TO_CONFIG_MAPPING[PeftType("LOKI")] is LokiConfig


def test_a_peft_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "PEFT_TYPE_TO_TUNER_MAPPING", {})
    with pytest.warns(
        UserWarning, match=r'does not accept a method from outside.*LokiModel\(model, config, "default"\)'
    ):
        registration.register(LokiConfig, LokiModel)


def test_the_tuner_works_without_peft_model() -> None:
    model = LokiModel(tiny_model("llama"), LokiConfig(active_pos=ROWS), "default")
    assert torch.equal(logits(model, prompts(2, 5)), logits(tiny_model("llama"), prompts(2, 5)))
    train(model)
    assert isinstance(model.merge_and_unload(), PreTrainedModel)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"active_pos": None}, "active_pos: got none, expected rows"),
        ({"active_pos": [[], []]}, "active_pos: got none, expected rows"),
        ({"active_pos": {"a": []}}, "active_pos: got none, expected rows"),
        ({"active_pos": [[1.9]]}, r"layer 0: got \[1.9\], expected integers"),
        ({"active_pos": [[1, 1]]}, r"layer 0: rows \[1\] are listed more than once"),
        ({"active_pos": [[-1]]}, "layer 0: row -1 is negative"),
        ({"active_pos": {"a": [2, 2]}}, r"active_pos, a: rows \[2\]"),
        ({"active_pos": [[1]], "lora_r": 0}, "lora_r: got 0, expected >= 1"),
        (
            {"active_pos": [[1]], "target_modules": "x", "layers_to_transform": [0]},
            "layers_to_transform goes with a list",
        ),
    ],
)
def test_bad_configurations_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LokiConfig(**options)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0], [1]], "active_pos holds 2 layers, the model has 3"),
        ([[0], [16], []], r"rows \[16\] lie outside \[0, 16\)"),
        ({"model.layers.7.mlp.down_proj": [1]}, "names 'model.layers.7.mlp.down_proj', which is no target"),
    ],
)
def test_positions_of_another_model_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapted(rows=rows)


def test_an_unknown_architecture_is_named() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = {"model_type": "plain"}
            self.layers = nn.ModuleList([nn.Linear(4, 4)])

    with pytest.raises(ValueError, match=r"model type 'plain' are not known.*target_modules"):
        LokiModel(Plain(), LokiConfig(active_pos=[[1]]), "default")


def test_a_quantised_base_is_refused_unless_low_rank() -> None:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match=r"is quantised.*use LoKI with `lora_r`"):
        LokiLayer(layer, "default", [1])
    low_rank = LokiLayer(layer, "default", [1], lora_r=1)
    assert low_rank.loki_lora_B["default"].shape == (1, 1)
    with pytest.raises(ValueError, match=r"\['default'\] cannot be merged into a quantised weight \(torch.uint8\)"):
        low_rank.merge()


def test_rows_given_twice_are_refused() -> None:
    with pytest.raises(ValueError, match=r"adapter 'default': rows \[2\] are given more than once"):
        LokiLayer(nn.Linear(4, 4), "default", [2, 1, 2])


def test_adding_to_a_merged_layer_is_refused() -> None:
    layer = LokiLayer(nn.Linear(4, 4), "default", [1])
    layer.merge()
    with pytest.raises(ValueError, match=r"\['default'\] are merged: unmerge them before adding 'second'"):
        layer.update_layer("second", [2])
    with pytest.raises(ValueError, match="'default' is merged: unmerge it before deleting it"):
        layer.delete_adapter("default")


def test_mixed_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="does not mix adapters within a batch"):
        LokiLayer(nn.Linear(4, 4), "default", [1])(torch.zeros(1, 4), adapter_names=["default"])


def test_the_layer_can_be_traced_as_one_graph() -> None:
    """In a process of its own, without the run-time type checker of the tests."""
    code = (
        "import torch\n"
        "from iclr_repro.loki import LokiLayer\n"
        "layer = LokiLayer(torch.nn.Linear(8, 6), 'default', [1, 4])\n"
        "x, gradients = torch.randn(2, 3, 8), []\n"
        "for module in (torch.compile(layer, backend='eager', fullgraph=True), layer):\n"
        "    layer.loki_rows['default'].grad = None\n"
        "    module(x).square().sum().backward()\n"
        "    gradients.append(layer.loki_rows['default'].grad)\n"
        "print(float((gradients[0] - gradients[1]).abs().max()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-6
