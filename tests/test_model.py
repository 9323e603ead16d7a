"""The same model on NumPy and on the CUDA kernels: equal logits, equal greedy tokens."""

import numpy as np
import pytest

from llama_cu.checkpoint.rope import RopeConfig
from llama_cu.ops.numpy_ops import NumpyOps
from llama_cu.sampling_params import SamplingParams
from tests.backends import DEVICE_BACKENDS, OLD_DEVICE_BACKENDS, make_ops
from tests.tiny import make_engine, make_sequence, run, tiny_config

CONFIGS = {
    "gqa": tiny_config(),
    "mqa-window": tiny_config(num_key_value_heads=1, sliding_windows=(9, None)),
    "mha-bias": tiny_config(num_key_value_heads=4, qkv_bias=True, o_bias=True, mlp_bias=True),
    "qk-norm": tiny_config(qk_norm=True, head_dim=24),
    "dynamic": tiny_config(
        max_position_embeddings=16, rope=RopeConfig(rope_type="dynamic", factor=8.0)
    ),
}
PROMPTS = [[5], [17, 3, 99, 4], list(range(1, 38))]
TOLERANCE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


# Where answers are the same token by token in any batch. cuBLAS adds in an order of its own, one
# for each number of rows: in 16 bits that is enough to change a draw now and then.
STEADY_BACKENDS = [b for b in DEVICE_BACKENDS if b.id.startswith("cpu_device") or "float32" in b.id]
# Where they are NumPy's: the tensor cores of prefill round the weights of V to 16 bits besides.
EXACT_BACKENDS = [*(b for b in DEVICE_BACKENDS if "float32" in b.id), *OLD_DEVICE_BACKENDS]


@pytest.fixture(params=DEVICE_BACKENDS)
def cuda_ops(request):
    """CudaOps in each dtype: on the CUDA-on-CPU device, and on a GPU where there is one."""
    return make_ops(request.param)


@pytest.fixture(params=STEADY_BACKENDS)
def steady_ops(request):
    """The same, less those whose last bit may decide between two tokens."""
    return make_ops(request.param)


@pytest.fixture(params=EXACT_BACKENDS)
def exact_ops(request):
    """Those that round where NumPy does, and nowhere else."""
    return make_ops(request.param)


def is_tie(engine, prompt, answer, other, *, tolerance):
    """Whether two answers part at tokens whose logits are as close as rounding can bring them."""
    at = next(i for i, pair in enumerate(zip(answer, other, strict=True)) if len(set(pair)) > 1)
    params = SamplingParams(temperature=0)
    logits = engine.score(make_sequence([*prompt, *answer[:at]], params))[-1]
    spread = np.sqrt(np.mean(logits**2))
    return abs(logits[answer[at]] - logits[other[at]]) < 5 * tolerance * spread


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_on_the_kernels_are_those_of_numpy(cuda_ops, name):
    config = CONFIGS[name]
    ids = [7, 50, 3, 3, 88, 21, 100, 64, 12, 9, 31, 77, 5, 18, 44, 90, 2, 60, 71, 15, 6]
    params = SamplingParams(temperature=0)
    numpy_engine = make_engine(NumpyOps(cuda_ops.dtype), config)
    expected = numpy_engine.score(make_sequence(ids, params))
    for chunk in (256, 8):
        engine = make_engine(cuda_ops, config, max_batch_tokens=chunk)
        got = engine.score(make_sequence(ids, params))
        error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        assert error < TOLERANCE[cuda_ops.dtype.name]


@pytest.mark.parametrize("name", CONFIGS)
def test_whole_models_generate_the_greedy_tokens_of_numpy(cuda_ops, name):
    config = CONFIGS[name]
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    numpy_engine = make_engine(NumpyOps(cuda_ops.dtype), config)
    expected = run(numpy_engine, PROMPTS, params)
    answers = run(make_engine(cuda_ops, config), PROMPTS, params)
    tolerance = TOLERANCE[cuda_ops.dtype.name]
    for prompt, answer, want in zip(PROMPTS, answers, expected, strict=True):
        if answer != want:
            assert cuda_ops.device_name != "cuda-on-cpu"  # there the products are NumPy's own
            assert is_tie(numpy_engine, prompt, want, answer, tolerance=tolerance)


def test_only_close_logits_count_as_a_tie():
    engine, prompt = make_engine(), PROMPTS[1]
    logits = engine.score(make_sequence(prompt, SamplingParams(temperature=0)))[-1]
    order = np.argsort(-logits).tolist()
    gap = (logits[order[0]] - logits[order[1]]) / np.sqrt(np.mean(logits**2))
    assert is_tie(engine, prompt, [order[0]], [order[1]], tolerance=gap / 4.9)
    assert not is_tie(engine, prompt, [order[0]], [order[1]], tolerance=gap / 5.1)


def test_seeded_draws_with_every_option_are_those_of_numpy(exact_ops):
    params = SamplingParams(
        temperature=0.9,
        top_k=30,
        top_p=0.9,
        min_p=0.02,
        repetition_penalty=1.2,
        presence_penalty=0.3,
        frequency_penalty=0.1,
        logit_bias={7: 1.5},
        max_tokens=8,
        min_tokens=8,
        seed=11,
        logprobs=3,
    )
    expected = run(make_engine(NumpyOps(exact_ops.dtype)), PROMPTS, params)
    assert run(make_engine(exact_ops), PROMPTS, params) == expected


def test_on_the_kernels_too_batching_never_changes_the_answer(steady_ops):
    params = SamplingParams(temperature=0.8, max_tokens=6, seed=2)
    alone = [run(make_engine(steady_ops), [prompt], params)[0] for prompt in PROMPTS]
    for changes in ({"max_batch_tokens": 6}, {"num_blocks": 13}, {"block_size": 5}):
        assert run(make_engine(steady_ops, **changes), PROMPTS, params) == alone
