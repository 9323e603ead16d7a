"""LLM: the library's face on a small checkpoint with a tokenizer."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llama_cu import LLM, BackendUnavailable, ModelError, RequestError, SamplingParams
from tests.checkpoints import SMALL_LLAMA, random_checkpoint
from tests.cuda_on_cpu import CpuDevice

GREEDY = SamplingParams(temperature=0, max_tokens=20)
TEXT = "Once upon a time a small turtle wanted to see the sea. Schildkröte, 海亀, 🐢! " * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama with a byte-level tokenizer that adds BOS, and sampling defaults."""
    path = tmp_path_factory.mktemp("llm")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    vocab_size = tokenizer.get_vocab_size()
    random_checkpoint(path, {**SMALL_LLAMA, "vocab_size": vocab_size}, seed=3)
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"bos_token": "<bos>", "eos_token": "<eos>"}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    generation = {"eos_token_id": [2, 4], "do_sample": True, "temperature": 0.7, "top_k": 20}
    (path / "generation_config.json").write_text(json.dumps(generation))
    return path


@pytest.fixture(scope="module")
def llm(folder):
    return LLM(folder, device="cpu", seed=1)


def test_outputs_come_in_the_order_of_the_prompts_and_equal_those_alone(llm):
    prompts = ["Once upon", "a turtle", [1, 9, 30, 44], "🐢 sea"]
    together = llm.generate(prompts, GREEDY)
    alone = [llm.generate([prompt], GREEDY)[0] for prompt in prompts]
    assert [out.token_ids for out in together] == [out.token_ids for out in alone]
    assert together[0].prompt_token_ids == llm.tokenizer.encode("Once upon")
    assert together[2].prompt_token_ids == [1, 9, 30, 44]
    assert all(out.text == llm.tokenizer.decode(out.token_ids) for out in together)


def test_a_stream_is_the_generated_text_in_pieces(llm):
    params = SamplingParams(max_tokens=60, seed=4)
    stream = llm.stream("Once upon", params)
    pieces = list(stream)
    whole = llm.generate(["Once upon"], params)[0]
    assert len(pieces) > 5
    assert "".join(pieces) == whole.text == stream.output.text
    assert stream.output.token_ids == whole.token_ids


def test_a_closed_stream_ends_with_abort_and_returns_its_blocks(llm):
    free = llm.engine.scheduler.allocator.num_free
    stream = llm.stream("Once upon", SamplingParams(max_tokens=60, seed=4))
    with pytest.raises(ValueError, match="output must be read after"):
        _ = stream.output
    first = next(stream)
    stream.close()
    assert stream.output.finish_reason == "abort"
    assert stream.output.text.startswith(first)
    assert list(stream) in ([], [stream.output.text[len(first) :]])
    assert llm.engine.scheduler.allocator.num_free == free
    assert not llm.engine.has_work


def test_two_streams_at_once_do_not_disturb_each_other(llm):
    params = SamplingParams(max_tokens=30, seed=11)
    expected = [llm.generate([p], params)[0].text for p in ("Once", "turtle")]
    first, second = llm.stream("Once", params), llm.stream("turtle", params)
    texts = ["", ""]
    for piece in first:
        texts[0] += piece
        texts[1] += next(second, "")
    texts[1] += "".join(second)
    assert texts == expected


def test_stop_strings_are_cut_off_and_name_the_reason(llm):
    params = SamplingParams(temperature=0, max_tokens=40)
    text = llm.generate(["Once upon"], params)[0].text
    stop = text[10:13]
    out = llm.generate(["Once upon"], SamplingParams(temperature=0, max_tokens=40, stop=stop))[0]
    assert out.finish_reason == "stop"
    assert out.text == text[: text.find(stop)]


def test_n_outputs_differ_by_seed_and_follow_their_prompt(llm):
    params = SamplingParams(max_tokens=10, seed=5, n=3)
    outs = llm.generate(["Once", "sea"], params)
    assert len(outs) == 6
    assert len({tuple(out.token_ids) for out in outs[:3]}) == 3
    assert {tuple(out.prompt_token_ids) for out in outs[3:]} == {tuple(llm.tokenizer.encode("sea"))}
    single = llm.generate(["Once"], SamplingParams(max_tokens=10, seed=6))[0]
    assert single.token_ids == outs[1].token_ids


def test_a_seeded_llm_repeats_itself(folder):
    texts = [
        LLM(folder, device="cpu", seed=9).generate(["sea"], SamplingParams(max_tokens=8))[0].text
        for _ in range(2)
    ]
    assert texts[0] == texts[1]


def test_seeds_may_be_of_numpy(folder, llm):
    prompt, other = [[1, 2, 3]], SamplingParams(seed=11, n=2, max_tokens=6)
    given = SamplingParams(seed=np.int64(11), n=2, max_tokens=6)
    assert [o.token_ids for o in llm.generate(prompt, given)] == [
        o.token_ids for o in llm.generate(prompt, other)
    ]
    first, second = (LLM(folder, device="cpu", seed=seed) for seed in (7, np.uint8(7)))
    assert first.generate(prompt)[0].token_ids == second.generate(prompt)[0].token_ids


def test_params_default_to_the_models_generation_config(llm):
    params = llm.default_params()
    assert (params.temperature, params.top_k, params.top_p) == (0.7, 20, 1.0)


def test_a_generation_config_out_of_range_is_named(folder, tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "generation_config.json").write_text('{"temperature": 1e30}')
    llm = LLM(tmp_path, device="cpu")
    with pytest.raises(ModelError, match=r"generation_config.json: temperature .* got 1e\+30"):
        llm.generate("Once")


def test_a_second_chat_turn_computes_only_what_is_new(llm):
    messages = [{"role": "user", "content": "Tell me about the turtle and the sea."}]
    params = SamplingParams(temperature=0, max_tokens=24)
    first = llm.chat(messages, params)
    messages += [
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "And then?"},
    ]
    stream = llm.chat_stream(messages, params)
    text = "".join(stream)
    assert llm.count_chat_tokens(messages) == len(stream.output.prompt_token_ids)
    assert stream.output.num_cached_tokens >= len(first.prompt_token_ids) // 16 * 16 > 0
    fresh = LLM(llm_folder(llm), device="cpu").chat(messages, params)
    assert (fresh.text, fresh.num_cached_tokens) == (text, 0)


def llm_folder(llm):
    return llm.tokenizer.source.removesuffix("tokenizer.json")


def test_logits_are_float32_at_every_position_and_agree_with_decoding(llm):
    out = llm.generate([[1, 9, 30]], GREEDY)[0]
    logits = llm.logits([1, 9, 30, *out.token_ids])
    assert logits.shape == (3 + len(out.token_ids), llm.config.vocab_size)
    assert logits.dtype == np.float32
    assert logits[2:-1].argmax(-1).tolist() == out.token_ids


def test_without_a_tokenizer_prompts_are_ids_and_text_is_refused(tmp_path):
    llm = LLM(random_checkpoint(tmp_path), device="cpu")
    out = llm.generate([[1, 5, 9]], GREEDY)[0]
    assert out.token_ids and out.text == ""
    with pytest.raises(ValueError, match=r"list of token ids: the model has no tokenizer\.json"):
        llm.generate(["text"], GREEDY)
    with pytest.raises(ValueError, match="stop strings need a tokenizer"):
        llm.generate([[1]], SamplingParams(stop="x"))


@pytest.mark.parametrize(
    ("prompt", "rule"),
    [
        ([], "at least one token"),
        ([1, 1000], r"\[0, \d+\), got 1000"),
        ([1, -1], "got -1"),
        ([1, "a"], "list of token ids, got 'a'"),
        ([1.5], "got 1.5"),
        (None, "a string or a list of token ids, got None"),
    ],
)
def test_a_wrong_prompt_is_refused_with_rule_and_value(llm, prompt, rule):
    with pytest.raises(ValueError, match=rule):
        llm.generate([prompt], GREEDY)
    assert not llm.engine.has_work


def test_ids_may_come_as_a_numpy_array(llm):
    ids = np.array([1, 9, 30])
    assert llm.generate(ids, GREEDY)[0].token_ids == llm.generate([[1, 9, 30]], GREEDY)[0].token_ids
    with pytest.raises(ValueError, match="a string or a list, got 5"):
        llm.generate(5, GREEDY)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("device", "tpu", "auto, cpu, cuda"),
        ("device", 0, "auto, cpu, cuda"),
        ("dtype", "int8", "bfloat16"),
        ("max_model_len", 0, "at least 1"),
        ("max_model_len", 10**6, "at most 128"),
        ("kv_cache_bytes", 10, "one block"),
        ("kv_cache_bytes", "1G", "an integer"),
        ("block_size", -1, "at least 1"),
        ("max_batch_tokens", 0, "at least 1"),
    ],
)
def test_a_wrong_argument_is_refused_with_name_rule_and_value(folder, name, value, rule):
    with pytest.raises(ValueError, match=rf"{name}.*{rule}.*got"):
        LLM(folder, **{"device": "cpu", name: value})


def test_a_prompt_that_cannot_fit_is_refused_and_others_are_served(llm):
    with pytest.raises(RequestError, match="128 tokens, but at most 127 fit"):
        llm.generate([[5], [5] * 128], GREEDY)
    assert not llm.engine.has_work
    assert len(llm.generate([[5] * 127], GREEDY)[0].token_ids) == 1


def test_a_missing_folder_is_a_model_error_that_names_it(tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        LLM(tmp_path / "nowhere", device="cpu")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_on_the_cpu_is_close_to_float32(folder, llm, dtype):
    ids = llm.tokenizer.encode("Once upon a time a small turtle")
    exact = llm.logits(ids)
    rounded = LLM(folder, device="cpu", dtype=dtype).logits(ids)
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 0 < error < {"float16": 2e-3, "bfloat16": 2e-2}[dtype]


def test_on_a_given_device_the_kernels_answer_like_numpy(folder, llm):
    kernels = LLM(folder, device=CpuDevice(), kv_cache_bytes=1 << 20)
    assert kernels.device_note == "cuda-on-cpu, as given"
    prompts = ["Once upon", "a turtle"]
    params = SamplingParams(temperature=0, max_tokens=6)
    expected = [out.text for out in llm.generate(prompts, params)]
    assert [out.text for out in kernels.generate(prompts, params)] == expected
    assert "".join(kernels.stream(prompts[0], params)) == expected[0]


def test_a_small_model_does_not_take_all_of_a_device(folder):
    small = LLM(folder, device=CpuDevice(), max_num_seqs=2, max_model_len=32)
    assert small.engine.capacity == 4 * 2 * 32
    asked = LLM(folder, device=CpuDevice(), max_num_seqs=2, kv_cache_bytes=1 << 20)
    assert asked.engine.capacity > 4 * 2 * 32


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("max_model_len", True, "an integer"),
        ("block_size", True, "an integer"),
        ("block_size", None, "an integer"),
        ("seed", [1], "an integer"),
        ("seed", "a", "an integer"),
        ("seed", -1, "at least 0"),
        ("gpu_memory_utilization", "a", r"\(0, 1\]"),
        ("dtype", ["float32"], "auto or one of"),
        ("progress", 5, "callable"),
        ("model", None, "a path or a name"),
    ],
)
def test_a_wrong_argument_of_any_type_is_refused_by_name(folder, name, value, rule):
    with pytest.raises(ValueError, match=f"{name} must be.*{rule}.*got"):
        LLM(**{"model": folder, "device": "cpu", name: value})


@pytest.mark.parametrize("kv_cache_bytes", [10**17, 10**30])
def test_a_cache_larger_than_any_memory_is_refused_in_words(folder, kv_cache_bytes):
    with pytest.raises(BackendUnavailable, match="no memory for a KV cache"):
        LLM(folder, device="cpu", kv_cache_bytes=kv_cache_bytes)


def test_options_may_be_small_integers_of_numpy(folder, llm):
    small = dict.fromkeys(("block_size", "max_batch_tokens", "max_model_len"), np.int8(100))
    other = LLM(folder, device="cpu", **small)
    prompt = [list(range(1, 50))]
    assert other.generate(prompt, GREEDY)[0].token_ids == llm.generate(prompt, GREEDY)[0].token_ids
    assert all(type(value) is int for value in (other.max_model_len, other.engine.capacity))


def test_each_prompt_may_have_params_of_its_own(llm):
    drawn = SamplingParams(max_tokens=3, temperature=1.0, seed=5, n=2)
    prompts = ["Once", "A little"]

    outputs = llm.generate(prompts, [GREEDY, drawn])

    alone = [*llm.generate(prompts[0], GREEDY), *llm.generate(prompts[1], drawn)]
    assert [one.token_ids for one in outputs] == [one.token_ids for one in alone]
    with pytest.raises(ValueError, match="2 prompts need as many params, got 1"):
        llm.generate(prompts, [GREEDY])
    with pytest.raises(ValueError, match="params must be SamplingParams or None, got 7"):
        llm.generate(prompts, [GREEDY, 7])


@pytest.mark.parametrize("params", [{"temperature": 0}, 0, ""])
def test_params_of_another_kind_are_refused(llm, params):
    for ask in (llm.generate, llm.stream):
        with pytest.raises(ValueError, match="params must be SamplingParams"):
            ask("Once", params)


@pytest.mark.parametrize(
    "messages", ["hello", 5, [], {"role": "user", "content": "a"}, [{"content": "a"}]]
)
def test_messages_of_another_kind_are_refused(llm, messages):
    with pytest.raises(ValueError, match="messages must"):
        llm.chat(messages, GREEDY)


def test_logits_and_prompts_that_are_plain_numbers_are_refused(llm):
    with pytest.raises(ValueError, match=r"prompt must be .* got 5"):
        llm.logits(5)
    with pytest.raises(ValueError, match=r"prompt must be .* got array\(5\)"):
        llm.generate([np.array(5)])
    with pytest.raises(ValueError, match=r"prompts must be .* got 5"):
        llm.generate(np.array(5))


def test_a_stop_string_that_began_before_min_tokens_ends_the_answer_after_them(llm):
    (whole,) = llm.generate("Once", SamplingParams(temperature=0, max_tokens=12, ignore_eos=True))
    texts = [llm.tokenizer.decode(whole.token_ids[:end]) for end in range(13)]
    # Two tokens of whole characters, one behind the other
    end = next(i for i in range(2, 13) if texts[i][len(texts[i - 2]) - 1 :].isascii())
    stop = texts[end][len(texts[end - 2]) :]
    text = whole.text[: whole.text.index(stop)]
    assert text == texts[end - 2] and len(stop) >= 2
    for min_tokens in (0, end):
        params = SamplingParams(
            temperature=0, max_tokens=12, ignore_eos=True, stop=stop, min_tokens=min_tokens
        )
        (output,) = llm.generate("Once", params)
        assert (output.text, output.finish_reason) == (text, "stop")
        assert len(output.token_ids) == end
        assert "".join(llm.stream("Once", params)) == text


@pytest.mark.parametrize("token_id", [10**6, 2**40])
def test_a_stop_token_that_the_model_does_not_have_is_refused(llm, token_id):
    params = SamplingParams(min_tokens=3, stop_token_ids=[token_id])
    with pytest.raises(ValueError, match=f"stop_token_ids .* got {token_id}"):
        llm.generate("Once", params)


def test_an_eos_id_beyond_the_vocabulary_does_not_disturb_min_tokens(folder, tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 100000]}')
    llm = LLM(tmp_path, device="cpu")
    (output,) = llm.generate("Once", SamplingParams(temperature=0, min_tokens=4, max_tokens=4))
    assert len(output.token_ids) == 4


def test_threads_share_a_model_and_get_the_answers_they_would_get_alone(llm):
    prompts = [f"Once {i} turtle" for i in range(4)]
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    alone = [llm.generate(prompt, params)[0].token_ids for prompt in prompts]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = [
                list(pool.map(lambda prompt: llm.generate(prompt, params)[0].token_ids, prompts))
                for _ in range(3)
            ]
    finally:
        sys.setswitchinterval(interval)
    assert found == [alone] * 3
    assert not llm.engine.has_work
