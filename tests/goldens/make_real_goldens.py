"""Writes real_models.json with Hugging Face transformers: token ids only, for prompts of our own.

    python -m tests.fetch_real_models MODELS
    pip install torch transformers gguf
    python -m benchmarks.convert_gguf MODELS/SmolLM2-135M-Instruct.Q4_1.gguf SMOLLM2
    python tests/goldens/make_real_goldens.py MODELS SMOLLM2

Greedy answers (float32, eager attention) end before a choice that two orders of summation could
make differently.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.real_models import CHATS, NUM_GREEDY, PROMPTS, TEXTS, TOKENIZERS

MIN_GAP = 5e-3


def main(models: Path, smollm2: Path) -> None:
    golden: dict[str, Any] = {"made_with": {"transformers": transformers.__version__}}
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2, dtype=torch.float32, attn_implementation="eager"
    )
    golden["smollm2"] = tokens(tokenizer)
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    prompts += golden["smollm2"]["chats"].values()
    golden["smollm2"]["answers"] = [
        {"prompt": prompt, "answer": greedy(model, prompt)} for prompt in prompts
    ]
    for name in TOKENIZERS:
        golden[name] = tokens(transformers.AutoTokenizer.from_pretrained(models / name))
    path = Path(__file__).with_name("real_models.json")
    path.write_text(json.dumps(golden, separators=(",", ":")).replace('],"', '],\n"') + "\n")


def tokens(tokenizer: Any) -> dict[str, Any]:
    chats = {
        name: tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, date_string="26 Jul 2024", return_dict=False
        )
        for name, messages in CHATS.items()
    }
    return {"texts": [tokenizer(text)["input_ids"] for text in TEXTS], "chats": chats}


def greedy(model: Any, prompt: list[int]) -> list[int]:
    ids = list(prompt)
    for _ in range(NUM_GREEDY):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        best = logits.topk(2)
        if best.values[0] - best.values[1] < MIN_GAP:
            break
        ids.append(int(best.indices[0]))
        if ids[-1] == model.config.eos_token_id:
            break
    return ids[len(prompt) :]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
