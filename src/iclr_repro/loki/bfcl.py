"""The AST check of the Berkeley Function Calling Leaderboard, single-turn categories.

A call is {function name: {argument: value}}. A prediction is right if the calls match the published answers one to one.

Source: sheet 8, "BFCL AST check in short"; the data are BFCL V3.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from iclr_repro.core.data import locate
from iclr_repro.loki.prompts import read_jsonl

Call = Mapping[str, Mapping[str, Any]]
Find = Callable[[str], Path]

CATEGORIES = (
    "simple",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)
NO_CALL_CATEGORIES = ("irrelevance", "live_irrelevance")
SOME_CALL_CATEGORIES = ("live_relevance",)
_IGNORED = re.compile(r"[\s,./\-_*^()]")


def load_bfcl(category: str, *, find: Find = locate) -> list[dict[str, Any]]:
    """Load a category: `id`, `question`, `function`, `wants_call`, and `ground_truth` where there is one.

    In `live_relevance` a call is wanted, but none is published: any call is right there.

    Raises:
        DataError: a file is missing or damaged.
        ValueError: an unknown category, or questions and answers that do not belong together.
    """
    known = (*CATEGORIES, *NO_CALL_CATEGORIES, *SOME_CALL_CATEGORIES)
    if category not in known:
        raise ValueError(f"category: got {category!r}, expected one of {', '.join(known)}")
    wants_call = category not in NO_CALL_CATEGORIES
    rows = [{**row, "wants_call": wants_call} for row in read_jsonl(find(f"loki/bfcl_v3/BFCL_v3_{category}.jsonl.gz"))]
    if category in CATEGORIES:
        answers = read_jsonl(find(f"loki/bfcl_v3/possible_answer_{category}.jsonl.gz"))
        if [row["id"] for row in rows] != [answer["id"] for answer in answers]:
            raise ValueError(f"{category}: the answers are not those of the questions (their ids differ)")
        rows = [{**row, "ground_truth": answer["ground_truth"]} for row, answer in zip(rows, answers, strict=True)]
    return rows


def ast_match(calls: Sequence[Call], row: Mapping[str, Any]) -> bool:
    """Tell whether predicted calls are right for an item, in any order.

    Each call must have the name of a published answer, every required argument, no argument that the function list
    does not know, and an accepted value for each. For an item without `ground_truth` any call is right if
    it has `wants_call`, and none otherwise.

    Example: [{"f": {"x": 1}}] is right for function f(x, y="") with answers [{"f": {"x": [1, 2], "y": ["", 5]}}].
    """
    if "ground_truth" not in row:
        return bool(calls) == bool(row.get("wants_call"))
    truths = row["ground_truth"]
    if len(calls) != len(truths):
        return False
    fits = [[_call_fits(call, truth, row["function"]) for truth in truths] for call in calls]
    matching = maximum_bipartite_matching(csr_array(fits, dtype=bool), perm_type="column")
    return bool((matching >= 0).all())


def oracle_calls(row: Mapping[str, Any]) -> list[dict[str, dict[str, Any]]]:
    """Return right calls from the published answers: the first accepted value, and no argument that may be left out."""
    calls = []
    for truth in row.get("ground_truth", []):
        ((name, accepted),) = truth.items()
        required = _required(name, row["function"])
        calls.append(
            {
                name: {
                    argument: _first_value(values[0])
                    for argument, values in accepted.items()
                    if values and (argument in required or "" not in values)
                }
            }
        )
    return calls


def parse_calls(text: str) -> list[dict[str, dict[str, Any]]]:
    """Read calls from a model's answer in BFCL's form, "[f(x=1), g(y='a')]".

    Raises:
        ValueError: the text is no list of calls with literal keyword arguments.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"not a list of calls: {text[:80]!r}") from error
    nodes = tree.elts if isinstance(tree, (ast.List, ast.Tuple)) else [tree]
    calls: list[dict[str, dict[str, Any]]] = []
    for node in nodes:
        if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
            raise ValueError(f"not a call with keyword arguments: {ast.unparse(node)[:80]!r}")
        try:
            arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
        except ValueError as error:
            raise ValueError(f"an argument of {ast.unparse(node)[:80]!r} is no literal") from error
        calls.append({ast.unparse(node.func): arguments})
    return calls


def _call_fits(call: Call, truth: Mapping[str, Any], functions: Sequence[Mapping[str, Any]]) -> bool:
    if len(call) != 1 or call.keys() != truth.keys():
        return False
    ((name, arguments),) = call.items()
    accepted = truth[name]
    specification = next((function for function in functions if function["name"] == name), None)
    if specification is None:
        return False
    known = specification["parameters"].get("properties", {})
    if not _required(name, functions) <= arguments.keys() or not arguments.keys() <= known.keys():
        return False
    if not all(argument in accepted and _accepted(value, accepted[argument]) for argument, value in arguments.items()):
        return False
    return all("" in values for argument, values in accepted.items() if argument not in arguments)


def _required(name: str, functions: Sequence[Mapping[str, Any]]) -> set[str]:
    for function in functions:
        if function["name"] == name:
            return set(function["parameters"].get("required", []))
    return set()


def _accepted(value: Any, accepted: Sequence[Any]) -> bool:
    return any(_equal(value, option) for option in accepted)


def _equal(value: Any, option: Any) -> bool:
    """Compare a value with an accepted one; in an accepted dict each key holds a list of accepted values."""
    if isinstance(option, Mapping):
        if not isinstance(value, Mapping) or not value.keys() <= option.keys():
            return False
        given = all(_accepted(item, _options(option[key])) for key, item in value.items())
        return given and all("" in _options(options) for key, options in option.items() if key not in value)
    if isinstance(option, list):
        return (
            isinstance(value, (list, tuple))
            and len(value) == len(option)
            and all(_equal(item, wanted) for item, wanted in zip(value, option, strict=True))
        )
    if isinstance(option, str):
        return isinstance(value, str) and _plain(value) == _plain(option)
    if isinstance(option, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(option, bool) and value == option
    return not isinstance(value, str) and bool(value == option)


def _options(options: Any) -> Sequence[Any]:
    return options if isinstance(options, list) else [options]


def _plain(text: str) -> str:
    """Strip what BFCL does not compare: case, blanks and punctuation."""
    return _IGNORED.sub("", text).lower().replace("'", '"')


def _first_value(option: Any) -> Any:
    if isinstance(option, Mapping):
        return {
            key: _first_value(_options(options)[0]) for key, options in option.items() if "" not in _options(options)
        }
    if isinstance(option, list):
        return [_first_value(item) for item in option]
    return option
