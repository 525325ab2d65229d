"""README: its Python examples run as they stand, but for sizes and public models, which are tiny random ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import AutoModel, Qwen2Config, Qwen2ForCausalLM, XLMRobertaConfig

from iclr_repro import command_line
from iclr_repro.choices import papers
from iclr_repro.loki.chat import byte_tokenizer
from support import ROOT

EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
SMALLER = {
    "steps=1500": "steps=2",
    "steps=500": "steps=2",
    "range(1500)": "range(2)",
    "range(2000)": "range(2)",
    "tokenizer)[:100]": "tokenizer)[:2]",
    "steps=20, batch_size=16": "steps=1, batch_size=2",
    "rounds=20": "rounds=2",
    "length=256": "length=40",
}
DECODER, ENCODER = "Qwen/Qwen2.5-0.5B-Instruct", "xlm-roberta-base"


@pytest.fixture
def saved_models(tmp_path: Path) -> dict[str, Path]:
    """Public name -> a folder with a random model of that class and a tokenizer of bytes."""
    tokenizer = byte_tokenizer()
    shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    folders = {DECODER: tmp_path / "decoder", ENCODER: tmp_path / "encoder"}
    Qwen2ForCausalLM(Qwen2Config(**shape, num_key_value_heads=1)).save_pretrained(folders[DECODER])
    encoder = AutoModel.from_config(XLMRobertaConfig(**shape, max_position_embeddings=64))
    encoder.save_pretrained(folders[ENCODER])
    for folder in folders.values():
        tokenizer.save_pretrained(folder)
    return folders


def _first_import(example: str) -> str:
    (paper, *_) = re.findall(r"iclr_repro\.(\w+)", example)
    return str(paper)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft reads it
@pytest.mark.parametrize("example", EXAMPLES, ids=_first_import)
def test_the_example_runs(
    example: str, saved_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not there, a wrong argument or a sentence that slipped in stops it."""
    for size, smaller in SMALLER.items():
        example = example.replace(size, smaller)
    for public, folder in saved_models.items():
        example = example.replace(public, str(folder))
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})


def test_every_shrunk_size_is_still_in_readme() -> None:
    """Else an example would run at full size, or with a model from the hub."""
    text = "".join(EXAMPLES)
    assert all(size in text for size in [*SMALLER, DECODER, ENCODER])


@pytest.mark.parametrize("scale", ["smoke", "cpu", "paper"])
@pytest.mark.parametrize("paper", papers())
def test_the_command_for_all_speed_ratios_finds_an_experiment_in_every_paper(paper: str, scale: str) -> None:
    assert "efficiency" in command_line.compose([f"paper={paper}", f"scale={scale}"]).experiments
