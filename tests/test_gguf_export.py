"""Checkpoints written as GGUF in fewer bits: what is read back is what `quantize` holds."""

from __future__ import annotations

import numpy as np
import pytest

from llama_cu import LLM, ModelError, SamplingParams
from llama_cu.checkpoint.checkpoint import open_checkpoint
from llama_cu.checkpoint.gguf import GgufFile
from llama_cu.checkpoint.gguf_export import export_gguf
from llama_cu.checkpoint.gguf_tokenizer_export import tokenizer_metadata
from llama_cu.checkpoint.rope import inv_freq_table
from llama_cu.checkpoint.tokenizer import Tokenizer
from llama_cu.cli.main import run
from llama_cu.quantized import INT4, SCHEMES
from tests.checkpoints import SMALL_LLAMA, random_checkpoint
from tests.real_models import TOKENIZERS, real_model
from tests.tokenizers_made_here import KINDS, byte_level, write_tokenizer
from tests.tokenizers_made_here import TEXTS as SENTENCES

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGS = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "sliding_window": 17},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "biased": {"attention_bias": True, "mlp_bias": True},
    "llama3 rope": {"rope_scaling": LLAMA_3},
    "linear rope": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "odd rows": {"intermediate_size": 104},
}


def checkpoint(folder, dtype="float32", **changes):
    return random_checkpoint(folder, {**SMALL_LLAMA, **changes}, seed=6, dtype=dtype)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_written_model_is_the_quantized_one(tmp_path, name, scheme):
    folder = checkpoint(tmp_path / "folder", **CONFIGS[name])
    path = tmp_path / "it.gguf"
    export_gguf(folder, path, SCHEMES[scheme])

    written = LLM(path, device="cpu", dtype="float32")
    held = LLM(folder, device="cpu", dtype="float32", quantize=scheme)
    for ours, theirs in zip(
        written.engine.model.weights.layers, held.engine.model.weights.layers, strict=True
    ):
        for field, array in vars(ours).items():
            np.testing.assert_array_equal(array, getattr(theirs, field), field)
    np.testing.assert_allclose(
        inv_freq_table(written.config, 128), inv_freq_table(held.config, 128), rtol=1e-6
    )
    if name != "tied":  # whose LM head stays as it is in a file
        prompts = [[5, 17, 3], list(range(1, 40))]
        answers = [[o.token_ids for o in llm.generate(prompts, GREEDY)] for llm in (written, held)]
        assert answers[0] == answers[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_types_are_what_was_asked_for(tmp_path, dtype):
    folder = checkpoint(tmp_path / "folder", dtype, intermediate_size=104)
    for scheme, kind in (("int4", "Q4_1"), ("int8", "Q8_0")):
        export_gguf(folder, tmp_path / "it.gguf", SCHEMES[scheme])
        tensors = GgufFile(tmp_path / "it.gguf").tensors
        types = {name: tensor.block_type.name for name, tensor in tensors.items()}
        own = {"float16": "F16", "bfloat16": "BF16"}[dtype]
        assert types["token_embd.weight"] == types["blk.0.ffn_down.weight"] == own
        assert types["blk.1.attn_q.weight"] == kind and types["output.weight"] == "Q8_0"
        assert types["output_norm.weight"] == types["blk.0.attn_norm.weight"] == "F32"


@pytest.mark.parametrize("kind", ["byte-level", "llama-2"])
def test_tokenizers_come_back(tmp_path, kind):
    tokenizer, template = KINDS[kind](), "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    vocab_size = tokenizer.get_vocab_size() + 5
    folder = checkpoint(tmp_path / "folder", vocab_size=vocab_size, eos_token_id=[2, 3])
    write_tokenizer(folder, tokenizer, {"chat_template": template})
    export_gguf(folder, tmp_path / "it.gguf", INT4)

    original, found = Tokenizer(folder), open_checkpoint(tmp_path / "it.gguf")
    for text in SENTENCES:
        ids = original.encode(text)
        assert found.tokenizer.encode(text) == ids
        assert found.tokenizer.decode(ids) == original.decode(ids)
    assert found.config.eos_token_ids == (2, 3)
    assert found.tokenizer.bos_token_id == 1 and found.tokenizer.eos_token_id == 2
    messages = [{"role": "user", "content": "hello"}]
    assert found.tokenizer.apply_chat_template(messages) == "hello"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "RoPE of type dynamic is not"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9}
            | {"max_window_layers": 1},
            "which layers have a sliding window",
        ),
    ],
)
def test_what_gguf_cannot_say_is_refused_and_nothing_is_written(tmp_path, changes, words):
    folder = checkpoint(tmp_path / "folder", **changes)
    with pytest.raises(ModelError, match=words):
        export_gguf(folder, tmp_path / "it.gguf", INT4)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_tokenizer_that_cuts_as_no_other_is_refused(tmp_path):
    from tokenizers import Regex, pre_tokenizers

    tokenizer = byte_level()
    odd = pre_tokenizers.Split(Regex("[aeiou]"), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([odd, to_bytes])
    folder = checkpoint(tmp_path / "folder", vocab_size=tokenizer.get_vocab_size())
    write_tokenizer(folder, tokenizer)
    with pytest.raises(ModelError, match="GGUF has no name for how this tokenizer cuts a text"):
        export_gguf(folder, tmp_path / "it.gguf", INT4)


def test_a_weight_that_has_no_numbers_leaves_no_file(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = checkpoint(tmp_path / "folder")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][2, 3] = np.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"up_proj\.weight: cannot be quantized: a weight is not"):
        export_gguf(folder, tmp_path / "it.gguf", INT4)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_program_writes_a_file_that_it_reads(tmp_path, capsys):
    out = tmp_path / "story.gguf"
    assert run(["quantize", "story", str(out), "--to", "int8"]) == 0
    assert run(["generate", "--model", str(out), "--device", "cpu", "--prompt", "One day"]) == 0
    assert len(capsys.readouterr().out.split()) > 5
    assert run(["quantize", "story", str(tmp_path / "story.bin")]) == 2
    assert run(["quantize", "story", str(out), "--to", "q4"]) == 2
    assert run(["quantize", str(out), str(out)]) == 2
    error = capsys.readouterr().err
    for words in ("must be the name of a .gguf file", "--to must be one of int8, int4",
                  "must be another file than the model"):  # fmt: skip
        assert words in error


@pytest.mark.real_model
@pytest.mark.parametrize("name", TOKENIZERS)
def test_real_tokenizers_are_known_by_their_cutting(name, tmp_path):
    tokenizer = Tokenizer(real_model(name))
    found = tokenizer_metadata(tokenizer, tokenizer.vocab_size)
    assert found["tokenizer.ggml.pre"] == {"llama3_1": "llama-bpe", "qwen3": "qwen2"}[name]
    assert found["tokenizer.chat_template"] == tokenizer.own_template()
