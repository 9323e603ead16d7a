"""Writes the golden files with Hugging Face transformers; the tests themselves need no torch.

    pip install torch transformers numpy safetensors ml_dtypes
    python tests/goldens/make_goldens.py [CASE ...]

Each case's checkpoint comes from tests/checkpoints.py, by seed. Stored per case: the prompt, its
float32 logits and the greedy tokens after it (EOS ignored), from eager attention in float32.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.checkpoints import random_checkpoint, random_ids
from tests.goldens.cases import CASES, NUM_GREEDY, ROPE_CASES, Case

FOLDER = Path(__file__).resolve().parent
# A greedy choice closer than this could fall to either side in another order of summation.
MIN_GAP = 5e-3
MIN_DISTINCT = 12


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or CASES:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            golden = make_golden(case, Path(folder))
        np.savez_compressed(FOLDER / f"{name}.npz", **golden)
        print(f"{name}: gap {golden['gap']:.4f}, distinct {len(set(golden['greedy'].tolist()))}")
    if not names:
        np.savez_compressed(FOLDER / "inv_freq.npz", **make_frequencies())
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    (FOLDER / "made_with.json").write_text(json.dumps(versions, indent=2) + "\n")


def make_golden(case: Case, folder: Path) -> dict[str, np.ndarray]:
    random_checkpoint(folder, case.config, seed=case.seed, dtype=case.file_dtype)
    prompt = random_ids(case.prompt_len, case.config["vocab_size"], seed=1000 + case.seed)
    greedy, gap = greedy_tokens(load(folder), prompt)
    if gap < MIN_GAP or len(set(greedy)) < MIN_DISTINCT:
        raise SystemExit(f"seed {case.seed}: gap {gap:.5f}, tokens {greedy}: take another seed")
    with torch.no_grad():
        logits = load(folder)(torch.tensor([prompt])).logits[0]
    return {
        "prompt": np.array(prompt, np.int32),
        "logits": logits.numpy().astype(np.float32),
        "greedy": np.array(greedy, np.int32),
        "gap": np.float32(gap),
    }


def make_frequencies() -> dict[str, np.ndarray]:
    """Inverse frequencies [num_lengths, head_dim / 2] and cos/sin scaling of ROPE_CASES."""
    golden = {}
    for name, (fields, lengths) in ROPE_CASES.items():
        config = transformers.LlamaConfig(
            **fields, hidden_size=8 * fields["head_dim"], num_attention_heads=8
        )
        rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding
        rows = []
        for length in lengths:
            embedding = rotary(config)
            embedding(torch.zeros(1), torch.arange(length)[None])
            rows.append(embedding.inv_freq.numpy())
        golden[name] = np.stack(rows)
        golden[f"{name}.scaling"] = np.float64(embedding.attention_scaling)
    return golden


def load(folder: Path) -> torch.nn.Module:
    """A fresh model: the dynamic RoPE of one that has run keeps the longest length it saw."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise SystemExit(f"{folder}: {report}")
    return model.eval()


def greedy_tokens(model: torch.nn.Module, prompt: list[int]) -> tuple[list[int], float]:
    """NUM_GREEDY tokens, and the least lead of a chosen token over the runner-up."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    result = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
        do_sample=False,
        max_new_tokens=NUM_GREEDY,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = result.sequences[0, len(prompt) :].tolist()
    if len(tokens) != NUM_GREEDY:
        raise SystemExit(f"expected {NUM_GREEDY} greedy tokens, got {len(tokens)}")
    best = torch.stack([logits[0].topk(2).values for logits in result.logits])
    return tokens, float((best[:, 0] - best[:, 1]).min())


if __name__ == "__main__":
    main(sys.argv[1:])
