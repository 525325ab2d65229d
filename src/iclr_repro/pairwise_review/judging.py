"""What a judge is, and how its answers are collected: streamed to a file, never asked twice, never lost.

Source: sheet E.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from iclr_repro.pairwise_review.counts import PairCounts, count_pairs
from iclr_repro.pairwise_review.papers import Paper, check_papers
from iclr_repro.pairwise_review.schedule import PairSchedule

_BLOCK = 10_000  # rows of a file that are counted at once


@dataclass(frozen=True)
class Judgement:
    """The answer to one comparison.

    Attributes:
        prefer_first: whether the paper shown first is preferred; None where the answer could not be read.
        prob_first: the judge's probability of that, where it gives one.
        raw: what the judge said.
        input_tokens, output_tokens: paid for this comparison, both orders and questions asked again included.
        cost_usd: their price; None where it is unknown.
        cached: whether nothing had to be asked.
        asked_again: whether the first answer could not be read.
    """

    prefer_first: bool | None
    prob_first: float | None = None
    raw: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    cached: bool = False
    asked_again: bool = False


@runtime_checkable
class Judge(Protocol):
    """Says which of two manuscripts is better. There is no tie."""

    @property
    def name(self) -> str:
        """Names judge and settings in records."""
        ...

    def compare(self, first: Paper, second: Paper) -> Judgement:
        """Judge one pair, in this order."""
        ...

    def compare_many(self, first: Sequence[Paper], second: Sequence[Paper]) -> list[Judgement]:
        """Judge pairs, as fast as the back-end can."""
        ...

    def prompt_hashes(self, first: Sequence[Paper], second: Sequence[Paper]) -> list[str]:
        """Tell prompts apart: equal for a pair where the judge would be asked the same again."""
        ...


class BaseJudge(ABC):
    """A judge over the one method that a back-end has to write, `compare_many`.

    Attributes:
        name: see `Judge`.
        question: all that is sent beside the two texts; "" where nothing is.
    """

    name: str
    question: str = ""

    @abstractmethod
    def compare_many(self, first: Sequence[Paper], second: Sequence[Paper]) -> list[Judgement]:
        """See `Judge`."""

    def compare(self, first: Paper, second: Paper) -> Judgement:
        """See `Judge`."""
        return self.compare_many([first], [second])[0]

    def shown(self, paper: Paper) -> str:
        """Return what the judge reads of a paper."""
        return "\n\n".join((paper.title, paper.abstract, paper.text or ""))

    def prompt_hashes(self, first: Sequence[Paper], second: Sequence[Paper]) -> list[str]:
        """Return the SHA-256 of the judge's name, its question and the hashes of both texts, in their order.

        That is all that a prompt is made of, and 3 million prompts need not be built to resume a run.
        """
        for paper in (*first, *second):
            if paper not in self._text_hashes:
                self._text_hashes[paper] = _sha256(self.shown(paper))
        head = f"{_sha256(self.name)} {_sha256(self.question)}"
        hashes = self._text_hashes
        return [_sha256(f"{head} {hashes[a]} {hashes[b]}") for a, b in zip(first, second, strict=True)]

    @cached_property
    def _text_hashes(self) -> dict[Paper, str]:
        return {}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Collected:
    """What came of a number of comparisons.

    Attributes:
        counts: outcomes by ordered pair (`.unordered()` joins the orders).
        comparisons: answers that could be read.
        unreadable: answers that could not, left out of the counts.
        asked_again: answers that could be read only at the second asking, or not at all.
        reused: comparisons that were in the file already.
        input_tokens, output_tokens: of all comparisons.
        cost_usd: dollars; None once a price is unknown.
        asked: comparisons that were not in the file.
        first_just_read: of these, the ones asked in one call right after another one with the same first paper; a judge
            or a server that keeps prefixes reads that text once for all of them.
    """

    counts: PairCounts
    comparisons: int
    unreadable: int
    asked_again: int
    reused: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    asked: int
    first_just_read: int


class JudgementLog:
    """A JSON-lines file of judgements, `{"id_first", "id_second", "judge", "prefer_first", "prob_first", ...}` each.

    `prompt_sha256` tells the prompts of a pair apart, see `Judge.prompt_hashes`.

    Rows are appended in blocks and are on disk when `append` returns. A row that was cut off in the middle, because the
    process was killed, is removed when the file is opened again.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists():
            self._drop_incomplete_row()

    def _drop_incomplete_row(self) -> None:
        with self.path.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            position, tail = end, b""
            while position > 0 and b"\n" not in tail:
                step = min(position, 65536)
                position -= step
                file.seek(position)
                tail = file.read(step) + tail
            keep = position + tail.rfind(b"\n") + 1 if b"\n" in tail else 0
            if keep < end:
                file.truncate(keep)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, one at a time.

        Raises:
            ValueError: a row is not JSON or lacks a field; the message names the line.
        """
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                    _ = row["id_first"], row["id_second"], row["prefer_first"]
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{self.path}, line {number} is no judgement ({error!r}): expected a JSON object with "
                        "id_first, id_second and prefer_first"
                    ) from None
                yield row

    def append(
        self, judge: Judge, first: Sequence[Paper], second: Sequence[Paper], answers: Sequence[Judgement]
    ) -> None:
        """Write answers."""
        hashes = judge.prompt_hashes(first, second)
        lines = [
            json.dumps(
                {"id_first": a.id, "id_second": b.id, "judge": judge.name, "prompt_sha256": asked, **asdict(answer)},
                ensure_ascii=False,
            )
            for a, b, asked, answer in zip(first, second, hashes, answers, strict=True)
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())


class _Tally:
    """Adds judgements up: two int64 per comparison are kept, and nothing else."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items
        self.keys: list[np.ndarray] = []
        self.wins: list[np.ndarray] = []
        self.unreadable = self.asked_again = self.reused = self.input_tokens = self.output_tokens = 0
        self.asked = self.first_just_read = 0
        self.cost_usd: float | None = 0.0

    def add(self, first: np.ndarray, second: np.ndarray, answers: Sequence[Judgement]) -> None:
        read = np.array([answer.prefer_first is not None for answer in answers], dtype=bool)
        won = np.array([bool(answer.prefer_first) for answer in answers], dtype=bool)
        self.keys.append((first * np.int64(self.n_items) + second)[read])
        self.wins.append(won[read])
        self.unreadable += int((~read).sum())
        for answer in answers:
            self.asked_again += answer.asked_again
            self.input_tokens += answer.input_tokens
            self.output_tokens += answer.output_tokens
            if self.cost_usd is not None:
                self.cost_usd = None if answer.cost_usd is None else self.cost_usd + answer.cost_usd

    def result(self) -> Collected:
        keys = np.concatenate(self.keys) if self.keys else np.zeros(0, dtype=np.int64)
        wins = np.concatenate(self.wins) if self.wins else np.zeros(0, dtype=bool)
        counts = count_pairs(self.n_items, keys // self.n_items, keys % self.n_items, wins, ordered=True)
        return Collected(
            counts,
            len(keys),
            self.unreadable,
            self.asked_again,
            self.reused,
            self.input_tokens,
            self.output_tokens,
            self.cost_usd,
            self.asked,
            self.first_just_read,
        )


def collect(
    judge: Judge,
    papers: Sequence[Paper],
    schedule: PairSchedule,
    num: int,
    *,
    log: str | Path | None = None,
    chunk: int = 1000,
) -> Collected:
    """Let a judge compare the first `num` pairs of a schedule.

    With a file, each chunk is on disk before the next is asked, pairs that the file holds already are not asked again
    (answers of another judge, or to another prompt, do not count), and a run that was cut goes on where it was (what
    was paid within the cut chunk is in the language model's own cache). Neither answers nor pairs are held in memory
    beyond three words a comparison.

    The pairs are those of the schedule, asked in the order of their first papers, so that a judge or a server that
    keeps prefixes reads a first text once for all its comparisons. A larger `num` adds the pairs that are missing. Only
    what a cut run leaves in its file is no prefix of the schedule: it holds the first papers and must be completed.

    Args:
        judge: any judge.
        papers: the items of the schedule, in its order.
        schedule: which pairs.
        num: how many.
        log: JSON-lines file; None keeps nothing.
        chunk: comparisons asked at once.

    Raises:
        ValueError: duplicate ids, or the schedule is of another number of papers, or the file is damaged.
    """
    check_papers(papers)
    if schedule.n_items != len(papers):
        raise ValueError(f"the schedule is of {schedule.n_items} items, there are {len(papers)} papers")
    tally = _Tally(len(papers))
    journal = None if log is None else JudgementLog(log)
    keys = np.sort(_keys(schedule, num))
    if journal is not None:
        keys = keys[~_replay(journal, judge, papers, keys, tally)]
    tally.asked = len(keys)
    for start in range(0, len(keys), chunk):
        first, second = np.divmod(keys[start : start + chunk], len(papers))
        tally.first_just_read += int((first[1:] == first[:-1]).sum())
        one, other = [papers[i] for i in first], [papers[i] for i in second]
        answers = judge.compare_many(one, other)
        if journal is not None:
            journal.append(judge, one, other, answers)
        tally.add(first, second, answers)
    return tally.result()


def _keys(schedule: PairSchedule, num: int) -> np.ndarray:
    first, second = schedule.pairs(0, num)
    return first * np.int64(schedule.n_items) + second


def _replay(
    journal: JudgementLog, judge: Judge, papers: Sequence[Paper], wanted: np.ndarray, tally: _Tally
) -> np.ndarray:
    """Count the rows of this judge and its prompts that are wanted, each pair once; return whose answers were there."""
    index = {paper.id: position for position, paper in enumerate(papers)}
    seen = np.zeros(len(wanted), dtype=bool)
    block: list[tuple[int, int, int, dict[str, Any]]] = []

    def count_block() -> None:
        hashes = judge.prompt_hashes([papers[a] for a, *_ in block], [papers[b] for _, b, *_ in block])
        used = []
        for (a, b, position, row), asked in zip(block, hashes, strict=True):
            if row.get("prompt_sha256") == asked and not seen[position]:
                seen[position] = True
                used.append((a, b, judgement_of(row)))
        if used:
            first, second, answers = zip(*used, strict=True)
            tally.add(np.array(first), np.array(second), answers)
        block.clear()

    for row in journal.rows():
        a, b = index.get(row["id_first"]), index.get(row["id_second"])
        if row.get("judge") != judge.name or a is None or b is None:
            continue
        key = a * len(index) + b
        position = int(np.searchsorted(wanted, key))
        if position == len(wanted) or wanted[position] != key or seen[position]:
            continue
        block.append((a, b, position, row))
        if len(block) == _BLOCK:
            count_block()
    count_block()
    tally.reused = int(seen.sum())
    return seen


def judgement_of(row: Mapping[str, Any]) -> Judgement:
    """Read a row of a `JudgementLog`; fields that it lacks take their defaults."""
    fields = {name: row[name] for name in Judgement.__dataclass_fields__ if name in row}
    return Judgement(**fields)


def count_rows(rows: Iterable[Mapping[str, Any]], papers: Sequence[Paper]) -> Collected:
    """Add up rows of a `JudgementLog` of these papers, whoever judged.

    Raises:
        ValueError: a row names a paper that is not among them.
    """
    index = {paper.id: position for position, paper in enumerate(papers)}
    tally = _Tally(len(papers))
    for row in rows:
        for field in ("id_first", "id_second"):
            if row[field] not in index:
                raise ValueError(f"a judgement is about {row[field]!r}, which is none of the {len(papers)} papers")
        tally.add(np.array([index[row["id_first"]]]), np.array([index[row["id_second"]]]), [judgement_of(row)])
    return tally.result()
