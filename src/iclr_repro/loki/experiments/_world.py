"""What the experiments in TinyWorld share: the pretrained model, its attributions, and its skills."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

from iclr_repro.core import distributed
from iclr_repro.core.batches import ResumableBatches
from iclr_repro.core.checkpoint import load_checkpoints, save_checkpoint
from iclr_repro.core.data import cache_folder
from iclr_repro.core.experiment import parameter
from iclr_repro.core.files import sha256_of_json
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.provenance import source_digests
from iclr_repro.core.rundir import Run
from iclr_repro.core.supervised import Supervised
from iclr_repro.loki.attribution import Rule
from iclr_repro.loki.metrics import Forgetting, forgetting
from iclr_repro.loki.probing import knowledge_vector_attribution
from iclr_repro.loki.tinyworld import SKILLS, VOCABULARY, Samples, TinyWorld, skill_accuracies, training_rows

_LEARNT = 0.3  # accuracy of a skill that counts towards forgetting (sheet 6.2)
# What a pretrained checkpoint depends on, besides settings and seed.
_SOURCES = (
    "loki/tinyworld.py",
    "loki/experiments/_world.py",
    "core/supervised.py",
    "core/batches.py",
    "core/loop.py",
    "core/seeding.py",
)


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A pretrained model with its world, the samples its skills are measured on, and their accuracies."""

    model: LlamaForCausalLM
    world: TinyWorld
    tests: dict[str, Samples]
    accuracies: dict[str, float]

    def copy(self) -> LlamaForCausalLM:
        """Return a copy of the model to train or to damage."""
        return copy.deepcopy(self.model)

    def learnt(self) -> list[str]:
        """Return the skills that count towards forgetting."""
        return [skill for skill, accuracy in self.accuracies.items() if accuracy >= _LEARNT]

    def forgetting(self, accuracies: dict[str, float], *, without: tuple[str, ...] = ()) -> Forgetting:
        """Compare accuracies with those of the pretrained model, over the skills that it had learnt.

        Raises:
            ValueError: it had learnt none of them.
        """
        skills = [skill for skill in self.learnt() if skill not in without]
        if not skills:
            raise ValueError(
                f"the pretrained model has accuracy {_LEARNT} or more at no skill {self.accuracies}, so that there is"
                " nothing to forget: pretrain for longer"
            )
        return forgetting(
            {skill: self.accuracies[skill] for skill in skills}, {skill: accuracies[skill] for skill in skills}
        )


@dataclass(frozen=True, kw_only=True)
class InTinyWorld:
    """The fields of experiments in TinyWorld: the world, the model, its pretraining, and its attributions."""

    num_entities: int = parameter("entities of the world", low=2, high=64)
    num_relations: int = parameter("relations of the world", low=1, high=4)
    num_symbols: int = parameter("symbols of the world", low=2, high=16)
    reversed_length: int = parameter("symbols to reverse", low=1)
    pool: dict[str, int] = parameter("skill -> samples of the pretraining pool; 0: the world is without it")
    hidden_size: int = parameter("d, rows of a down projection", low=4)
    intermediate_size: int = parameter("f", low=4)
    num_layers: int = parameter("decoder layers", low=1)
    num_heads: int = parameter("attention heads", low=1)
    pretraining_steps: int = parameter("updates", low=1)
    pretraining_batch: int = parameter("samples of an update", low=1)
    pretraining_rate: float = parameter("highest learning rate", low=0.0)
    test_samples: int = parameter("samples that each skill is measured on", low=1)
    probes: int = parameter("probe prompts of each skill", low=1)
    kva_steps: int = parameter("interpolation points m of the attribution", low=1)
    kva_rule: Rule = parameter("where they lie; the paper: right")

    def pretrained(self, run: Run) -> Pretrained:
        """Pretrain the model of this seed, or take it from the cache of the experiments that have done so."""
        world = self._world(run.rng("world"))
        model = self._model(run)
        with _kept(self._key(run), run) as kept:
            if kept.weights is not None:
                model.load_state_dict(kept.weights)
            else:
                self._pretrain(run, world, model)
                if distributed.is_main():
                    save_checkpoint(kept.folder, self.pretraining_steps, dict(model.state_dict()))
        model.eval()
        tests = {skill: world.samples(skill, self.test_samples, run.rng(f"tests/{skill}")) for skill in self._skills}
        return Pretrained(model, world, tests, skill_accuracies(model, tests))

    def attributions(self, run: Run, pretrained: Pretrained) -> np.ndarray:
        """Return the attributions [N, L, d] of fresh prompts, the same number of each skill, in mixed order."""
        return self.attributions_of(pretrained, self.probe_prompts(run, pretrained, self.probes))

    def attributions_of(self, pretrained: Pretrained, prompts: list[list[int]]) -> np.ndarray:
        """Return the attributions [N, L, d] of prompts."""
        return knowledge_vector_attribution(
            pretrained.model, prompts, steps=self.kva_steps, rule=self.kva_rule, batch_size=64
        )

    def probe_prompts(self, run: Run, pretrained: Pretrained, probes: int) -> list[list[int]]:
        """Return fresh prompts of all skills in mixed order."""
        prompts: list[list[int]] = []
        for skill in self._skills:
            prompts += pretrained.world.samples(skill, probes, run.rng(f"probes/{skill}")).prompts.tolist()
        return [prompts[place] for place in run.rng("probes/order").permutation(len(prompts))]

    @property
    def _skills(self) -> tuple[str, ...]:
        return tuple(skill for skill in SKILLS if self.pool.get(skill, 0) > 0)

    def networks(self) -> Iterable[Network]:
        """Describe the model in its pretraining."""
        batch = self._rows(self.pretraining_batch, self._skills)
        return [Network(name="pretrained", build=self._llama, inputs=batch, forward=without_cache)]

    def _rows(self, batch_size: int, tasks: Iterable[str]) -> dict[str, Tensor]:
        """Return a described batch of training rows, as wide as those of any world of this size."""
        rng = np.random.default_rng(0)
        world = self._world(rng)
        width = training_rows([world.samples(task, 1, rng) for task in tasks])[0].shape[1]
        return {name: example(batch_size, width, dtype=torch.int64) for name in ("input_ids", "labels")}

    def _world(self, rng: np.random.Generator) -> TinyWorld:
        return TinyWorld(
            rng,
            num_entities=self.num_entities,
            num_relations=self.num_relations,
            num_symbols=self.num_symbols,
            reversed_length=self.reversed_length,
        )

    def _model(self, run: Run) -> LlamaForCausalLM:
        with seeded(run, "initialisation"):
            return self._llama().to(run.device)

    def _llama(self) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            initializer_range=0.02,
            tie_word_embeddings=False,
            pad_token_id=0,
            max_position_embeddings=64,
        )
        return LlamaForCausalLM(config)

    def _pretrain(self, run: Run, world: TinyWorld, model: LlamaForCausalLM) -> None:
        parts = [world.samples(skill, self.pool[skill], run.rng(f"pool/{skill}")) for skill in self._skills]
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=self.pretraining_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        steps = self.pretraining_steps
        scheduler = get_cosine_schedule_with_warmup(optimizer, int(0.05 * steps), steps)
        batches = row_batches(*training_rows(parts), batch_size=self.pretraining_batch, seed=run.seed)
        learner = Supervised(
            model.train(), answer_loss, optimizer, batches, device=run.device, scheduler=scheduler, clip_norm=1.0
        )
        run.fit(learner, steps, name="pretraining", log_every=20)

    def _key(self, run: Run) -> str:
        names = [name for name in InTinyWorld.__dataclass_fields__ if name not in _AFTER_PRETRAINING]
        digests = source_digests("iclr_repro.loki", "iclr_repro.core")
        return sha256_of_json(
            {
                "settings": {name: getattr(self, name) for name in names},
                "seed": run.seed,
                "device": run.device.type,
                "threads": torch.get_num_threads(),
                "sources": {name: digest for name, digest in digests.items() if name.endswith(_SOURCES)},
                "libraries": {
                    name: importlib.metadata.version(name) for name in ("torch", "transformers", "accelerate", "numpy")
                },
            }
        )[:24]


_AFTER_PRETRAINING = {"test_samples", "probes", "kva_steps", "kva_rule"}


def row_batches(ids_NT: Tensor, labels_NT: Tensor, *, batch_size: int, seed: int) -> ResumableBatches:
    """Return batches of (ids, labels) rows."""
    return ResumableBatches(
        range(len(ids_NT)), batch_size, seed=seed, collate_fn=lambda rows: (ids_NT[rows], labels_NT[rows])
    )


def answer_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean cross-entropy of the labelled tokens."""
    loss: Tensor = without_cache(model, input_ids=batch[0], labels=batch[1]).loss
    return loss


def without_cache(model: nn.Module, **inputs: Tensor) -> Any:
    """Return what a model of transformers answers, without keys and values for a continuation."""
    return model(**inputs, use_cache=False)


@contextmanager
def seeded(run: Run, name: str) -> Iterator[None]:
    """Let torch's global generator, which layers draw their first weights from, start from a stream of the run."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=run.torch_rng(name))))
        yield


@contextmanager
def _kept(key: str, run: Run) -> Iterator[_Kept]:
    """Give the pretrained weights that runs with the same key keep, or their place, to one run at a time.

    Pretraining is a function of the key, so that it makes no difference to a result which run has done it. Of several
    processes the main one alone holds the lock: the others would wait for it, and it for them.
    """
    folder = cache_folder().parent / "loki" / key
    if not distributed.is_main():
        yield _Kept(distributed.from_main(None), folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        found = load_checkpoints(folder, run.log)
        yield _Kept(distributed.from_main(found[0][1] if found else None), folder)


@dataclass(frozen=True)
class _Kept:
    """Pretrained weights, None where nobody has pretrained yet, and the folder that they belong in."""

    weights: dict[str, Any] | None
    folder: Path
