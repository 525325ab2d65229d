"""What a run will cost, before a single call is made.

Source: sheet "Beyond", point 4, and claim C12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iclr_repro.pairwise_review.language_judge import Reading
from iclr_repro.pairwise_review.papers import Paper, check_papers
from iclr_repro.pairwise_review.prompts import Answering, load_template
from iclr_repro.pairwise_review.rating import CALLS_PER_PAPER


@dataclass(frozen=True)
class CostForecast:
    """The bill of a run.

    Attributes:
        calls: questions to the model.
        input_tokens, output_tokens: of all calls.
        cost_usd: dollars.
        wall_s: seconds with so many calls under way at once.
    """

    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    wall_s: float


def price(
    calls: int,
    input_tokens: float,
    output_tokens: float,
    *,
    price_per_million_input: float,
    price_per_million_output: float,
    seconds_per_call: float = 0.0,
    concurrency: int = 1,
) -> CostForecast:
    """Price a number of calls of so many tokens each.

    Raises:
        ValueError: a negative number, or concurrency below 1.

    Example: 3,000,000 calls of 5,950 tokens and one token answered, at 0.075 and 0.30 dollars a million: 1,339.65.
    """
    numbers = (calls, input_tokens, output_tokens, price_per_million_input, price_per_million_output, seconds_per_call)
    if min(numbers) < 0 or concurrency < 1:
        raise ValueError(f"a forecast needs numbers >= 0 and concurrency >= 1, got {numbers} and {concurrency}")
    total_in, total_out = round(calls * input_tokens), round(calls * output_tokens)
    return CostForecast(
        calls=calls,
        input_tokens=total_in,
        output_tokens=total_out,
        cost_usd=(total_in * price_per_million_input + total_out * price_per_million_output) / 1e6,
        wall_s=calls * seconds_per_call / concurrency,
    )


def forecast(
    papers: Sequence[Paper],
    first: np.ndarray,
    second: np.ndarray,
    *,
    reading: Reading,
    answering: Answering = "next_token",
    output_tokens: float = 1.0,
    swap: bool = False,
    again: bool = False,
    price_per_million_input: float,
    price_per_million_output: float,
    seconds_per_call: float = 0.0,
    concurrency: int = 1,
) -> CostForecast:
    """Count the tokens of a run without building its prompts: a paper's are counted once, then added up over the pairs.

    Args:
        papers: the items.
        first: [M] indices.
        second: [M] indices.
        reading: how papers are shown; `count_tokens` decides how exact the forecast is.
        answering: how the judge answers.
        output_tokens: expected in an answer.
        swap: both orders are asked.
        again: the questions asked again, each with its reminder; all of them are the most that can come to be.
        price_per_million_input: dollars.
        price_per_million_output: dollars.
        seconds_per_call: how long the endpoint takes.
        concurrency: calls under way at once.

    Raises:
        ValueError: a paper without text, or see `price`.
    """
    check_papers(papers, need_text=True)
    template, count = load_template(reading.template_version), reading.count_tokens
    venue = reading.venue
    rest = template.system_message(venue) + template.comparison("", "", venue=venue, answering=answering)
    if again:
        rest += f"\n\n{template.again}"
    tokens = np.array([count(reading.show(paper)) for paper in papers])
    calls = len(first) * (2 if swap else 1)
    total = (2 if swap else 1) * int(tokens[first].sum() + tokens[second].sum()) + calls * count(rest)
    return price(
        calls,
        total / calls if calls else 0.0,
        output_tokens,
        price_per_million_input=price_per_million_input,
        price_per_million_output=price_per_million_output,
        seconds_per_call=seconds_per_call,
        concurrency=concurrency,
    )


def forecast_ratings(
    papers: Sequence[Paper],
    *,
    reading: Reading,
    review_tokens: float,
    meta_tokens: float = 10.0,
    price_per_million_input: float,
    price_per_million_output: float,
) -> CostForecast:
    """Forecast the rating system: three reviews and a meta-review, which reads the paper and the reviews.

    Args:
        papers: to be rated.
        reading: how papers are shown.
        review_tokens: expected in a review.
        meta_tokens: expected in the answer of a meta-review.
        price_per_million_input: dollars.
        price_per_million_output: dollars.

    Raises:
        ValueError: a paper without text, or see `price`.
    """
    check_papers(papers, need_text=True)
    template, count = load_template(reading.template_version), reading.count_tokens
    reviews = CALLS_PER_PAPER - 1
    shown = sum(count(reading.show(paper)) for paper in papers)
    rest = CALLS_PER_PAPER * count(template.system_message(reading.venue)) + reviews * count(template.review)
    rest += count(template.meta_review)
    total_in = CALLS_PER_PAPER * shown + len(papers) * (rest + reviews * review_tokens)
    calls = CALLS_PER_PAPER * len(papers)
    return price(
        calls,
        total_in / calls,
        (reviews * review_tokens + meta_tokens) / CALLS_PER_PAPER,
        price_per_million_input=price_per_million_input,
        price_per_million_output=price_per_million_output,
    )


def forecast_expected_ratings(
    papers: Sequence[Paper], *, reading: Reading, price_per_million_input: float, price_per_million_output: float
) -> CostForecast:
    """Forecast `expected_ratings`: a call a paper, answered by one token.

    Raises:
        ValueError: a paper without text, or see `price`.
    """
    check_papers(papers, need_text=True)
    template, count = load_template(reading.template_version), reading.count_tokens
    rest = count(template.system_message(reading.venue)) + count(template.rating_by_next_token)
    return price(
        len(papers),
        rest + sum(count(reading.show(paper)) for paper in papers) / max(len(papers), 1),
        1.0,
        price_per_million_input=price_per_million_input,
        price_per_million_output=price_per_million_output,
    )
