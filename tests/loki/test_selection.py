"""Selecting rows, positions files, suppression, stability, metrics."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclr_repro.loki import (
    down_projections,
    forgetting,
    load_positions,
    overlap,
    pareto_front,
    rows_per_layer,
    save_positions,
    select_rows,
    selection_counts,
    selection_stability,
    suppress_rows,
    suppression_report,
)
from iclr_repro.loki.decoder import dense_rows
from iclr_repro.loki.selection import Strategy
from tiny_models import prompts, tiny_model

BY_LAYER: tuple[Strategy, ...] = ("layer_balanced", "high", "abs_low", "abs_high")


@pytest.mark.parametrize(
    ("quota", "num_rows", "k"),
    [(10, 4096, 409), (20, 4096, 819), (30, 4096, 1228), (5, 896, 44), (10, 896, 89), (30, 896, 268), (100, 7, 7)],
)
def test_rows_of_a_layer(quota: float, num_rows: int, k: int) -> None:
    assert rows_per_layer(quota, num_rows) == k


def test_quotas_are_exact_where_floats_come_out_below() -> None:
    assert int(0.29 * 100) == 28
    assert rows_per_layer(29, 100) == 29
    assert rows_per_layer(0.7, 1000) == 7


@pytest.mark.parametrize(
    ("quota", "message"),
    [
        (0, "quota: got 0, expected a percentage"),
        (101, "quota: got 101"),
        (1, "1 % of a layer of 64 rows is less than one"),
    ],
)
def test_quotas_without_a_row_are_refused(quota: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows_per_layer(quota, 64)


def drawn(seed: int, shape: tuple[int, int, int] = (9, 3, 12)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def by_hand(values: np.ndarray, k: int, strategy: Strategy) -> list[list[int]]:
    """The definition, sample by sample, with Python's sort."""
    score = np.abs(values) if strategy.startswith("abs") else values
    sign = -1 if strategy.endswith("high") else 1
    chosen = []
    for layer in range(values.shape[1]):
        counts = [0] * values.shape[2]
        for sample in score[:, layer]:
            for row in sorted(range(len(sample)), key=lambda row: (sign * sample[row], row))[:k]:
                counts[row] += 1
        mean = sign * score[:, layer].mean(axis=0)
        chosen.append(sorted(range(len(counts)), key=lambda row: (-counts[row], mean[row], row))[:k])
    return chosen


@given(seed=st.integers(0, 10_000), quota=st.sampled_from([10, 25, 50, 100]), strategy=st.sampled_from(BY_LAYER))
def test_selection_follows_its_definition(seed: int, quota: float, strategy: Strategy) -> None:
    values = np.round(drawn(seed), 1)  # rounded, so that there are ties
    assert select_rows(values, quota, strategy=strategy) == by_hand(values, rows_per_layer(quota, 12), strategy)


@given(seed=st.integers(0, 10_000), strategy=st.sampled_from([*BY_LAYER, "global_low", "global_high"]))
def test_no_row_left_out_is_more_frequent(seed: int, strategy: Strategy) -> None:
    values = np.round(drawn(seed), 1)
    counts = selection_counts(values, 25, strategy=strategy)
    selected = np.zeros(counts.shape, dtype=bool)
    for layer, rows in enumerate(select_rows(values, 25, strategy=strategy)):
        selected[layer, rows] = True
    groups = [(counts, selected)] if strategy.startswith("global") else list(zip(counts, selected, strict=True))
    for count, mask in groups:
        assert count[mask].min() >= count[~mask].max()
        assert mask.sum() == int(0.25 * count.size)


@given(seed=st.integers(0, 10_000))
def test_increasing_functions_of_a_sample_change_nothing(seed: int) -> None:
    """So that the paper's min-max scaling may be left out."""
    values = drawn(seed)
    low, high = values.min(axis=2, keepdims=True), values.max(axis=2, keepdims=True)
    assert (selection_counts((values - low) / (high - low), 25) == selection_counts(values, 25)).all()


def test_the_two_ends_mirror_each_other() -> None:
    values = drawn(3)
    assert select_rows(values, 25, strategy="high") == select_rows(-values, 25)
    assert select_rows(values, 25, strategy="global_high") == select_rows(-values, 25, strategy="global_low")


def test_ties_go_to_the_lower_index() -> None:
    assert select_rows(np.zeros((4, 2, 6)), 50) == [[0, 1, 2], [0, 1, 2]]


def test_global_selection_may_leave_layers_without_rows() -> None:
    values = drawn(0)
    values[:, 0] -= 100.0
    assert [len(rows) for rows in select_rows(values, 20, strategy="global_low")] == [7, 0, 0]


def test_random_and_all_rows() -> None:
    values = drawn(0)
    one, two = (select_rows(values, 25, strategy="random", rng=np.random.default_rng(0)) for _ in range(2))
    assert one == two
    assert [len(set(rows)) for rows in one] == [3, 3, 3]
    assert select_rows(values, 1, strategy="all_rows") == [list(range(12))] * 3
    with pytest.raises(ValueError, match="'random' needs rng"):
        select_rows(values, 25, strategy="random")
    with pytest.raises(ValueError, match="does not look at samples"):
        selection_counts(values, 25, strategy="random")


@pytest.mark.usefixtures("unchecked")
def test_bad_attributions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 4\), expected \[samples, layers, rows\]"):
        select_rows(np.zeros((3, 4)), 25)
    with pytest.raises(ValueError, match="1 attributions are not finite"):
        select_rows(np.where(drawn(0) == drawn(0).max(), np.nan, drawn(0)), 25)
    with pytest.raises(ValueError, match="strategy: got 'lowest', expected one of layer_balanced"):
        select_rows(drawn(0), 25, strategy="lowest")  # type: ignore[arg-type]
    assert len(get_args(Strategy)) == 8


# --- positions and suppression ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz"])
def test_positions_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    save_positions(tmp_path / name, [[3, 1], []])
    assert load_positions(tmp_path / name) == [[3, 1], []]
    text = (tmp_path / name).read_bytes()
    assert json.loads(gzip.decompress(text) if name.endswith(".gz") else text) == [[3, 1], []]


@pytest.mark.parametrize(
    ("text", "message"),
    [("[[1,", "is not valid JSON"), ('{"0": [1]}', "no list of lists"), ("[[1.5]]", "has 1.5 among the rows")],
)
def test_files_of_another_form_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_positions(tmp_path / "rows.json")


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_suppressed_rows_add_nothing_and_come_back(family: str) -> None:
    model, ids = tiny_model(family), prompts(2, 5)
    positions = [[1, 4], [], [0]]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outputs: list[torch.Tensor] = []
    with suppress_rows(model, positions):
        module = down_projections(model)[0].module
        handle = module.register_forward_hook(lambda m, i, y: outputs.append(y.reshape(-1, 16)))
        model(input_ids=ids)
        handle.remove()
        bias = torch.zeros(16) if module.bias is None else module.bias
        assert torch.equal(outputs[0][:, [1, 4]], bias[[1, 4]].expand(10, 2))
        zero = (dense_rows(down_projections(model)[2].module) == 0).all(dim=1)
        assert zero.nonzero().flatten().tolist() == [0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_rows_come_back_after_an_error() -> None:
    model = tiny_model("llama")
    before = down_projections(model)[0].module.weight.clone()
    with pytest.raises(KeyError), suppress_rows(model, [[1], [], []]):
        raise KeyError
    assert torch.equal(down_projections(model)[0].module.weight, before)
    with pytest.raises(ValueError, match="hold 2 layers, the model has 3"), suppress_rows(model, [[1], []]):
        pass


# --- stability -------------------------------------------------------------------------------------------------------


def test_overlap_of_the_docstring() -> None:
    assert overlap([[0, 1], [2, 3]], [[1, 5], [2, 3]]) == 0.75
    with pytest.raises(ValueError, match="got 1 and 2 layers"):
        overlap([[0]], [[0], [1]])


def test_a_clear_selection_is_stable_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((40, 2, 30))
    clear = noise + 100.0 * np.arange(30)
    found = selection_stability(clear, 20, resamples=5, rng=rng)
    assert found.mean == 1.0
    assert found.interval == (1.0, 1.0)
    unclear = selection_stability(noise, 20, resamples=20, rng=rng)
    assert unclear.mean < 0.9
    assert unclear.interval[0] <= unclear.mean <= unclear.interval[1]
    assert unclear.by_layer.shape == (2,)
    with pytest.raises(ValueError, match="resamples: got 1"):
        selection_stability(noise, 20, resamples=1, rng=rng)


# --- forgetting ------------------------------------------------------------------------------------------------------


def test_forgetting_of_the_docstring() -> None:
    found = forgetting({"a": 50.0, "b": 20.0, "c": 0.0}, {"a": 40.0, "b": 22.0, "c": 5.0})
    assert found.average == pytest.approx(5.0)
    assert found.clipped == pytest.approx(10.0)
    assert found.by_benchmark == pytest.approx({"a": 20.0, "b": -10.0})
    assert found.dropped == ("c",)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"a": 1.0}, {"b": 1.0}, r"\['a', 'b'\] occur on one side only"),
        ({"a": float("nan")}, {"a": 1.0}, "expected finite numbers >= 0"),
        ({"a": 1.0}, {"a": float("nan")}, "expected finite numbers >= 0"),
        ({"a": 0.0}, {"a": 1.0}, "every original score is 0"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(before: Any, after: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        forgetting(before, after)


def test_pareto_front_of_the_docstring() -> None:
    assert pareto_front([(0.5, 10), (0.9, 30), (0.9, 20), (0.4, 15)]) == [(0.5, 10), (0.9, 20)]
    assert pareto_front([]) == []


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-50, 100)), min_size=1, max_size=20))
def test_no_point_beats_the_front(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    for accuracy, lost in points:
        assert any(a >= accuracy and f <= lost for a, f in front)
    for one in front:
        assert not any(p != one and p[0] >= one[0] and p[1] <= one[1] for p in points)


def test_a_report_scores_every_set_and_leaves_the_model_alone() -> None:
    model, ids = tiny_model("llama"), prompts(4, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def score() -> dict[str, float]:
        with torch.no_grad():
            return {"confidence": float(model(input_ids=ids).logits[:, -1].softmax(dim=-1).max(dim=-1).values.mean())}

    attributions = drawn(0, (5, 3, 16))
    report = suppression_report(
        model, attributions, score, quotas=(10, 50), random_draws=2, rng=np.random.default_rng(0)
    )
    assert len(report) == 2 * 7
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    line = report[(report["rows"] == "abs_high") & (report["quota"] == 50)].iloc[0]
    with suppress_rows(model, select_rows(attributions, 50, strategy="abs_high")):
        damaged = score()["confidence"]
    assert line["confidence"] == pytest.approx(damaged)
    assert line["forgetting"] == pytest.approx(100 * (1 - damaged / score()["confidence"]))
