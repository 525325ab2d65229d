"""The Python examples of README run as they stand, but for sizes and the public model, which is a tiny random one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from iclr_repro.loki.chat import byte_tokenizer
from support import ROOT

EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
SMALLER = {
    "steps=1500": "steps=2",
    "range(1500)": "range(2)",
    "range(2000)": "range(2)",
    "tokenizer)[:100]": "tokenizer)[:2]",
}
PUBLIC_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    """A folder with a random Qwen2 and a tokenizer of bytes."""
    tokenizer = byte_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    tokenizer.save_pretrained(tmp_path / "model")
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _first_import(example: str) -> str:
    (paper, *_) = re.findall(r"iclr_repro\.(\w+)", example)
    return str(paper)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft reads it
@pytest.mark.parametrize("example", EXAMPLES, ids=_first_import)
def test_the_example_runs(example: str, saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is not there, a wrong argument or a sentence that slipped in stops it."""
    for size, smaller in SMALLER.items():
        example = example.replace(size, smaller)
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace(PUBLIC_MODEL, str(saved_model)), "README.md", "exec"), {})


def test_every_shrunk_size_is_still_in_readme() -> None:
    """Else an example would run at full size, or with a model from the hub."""
    text = "".join(EXAMPLES)
    assert all(size in text for size in [*SMALLER, PUBLIC_MODEL])
