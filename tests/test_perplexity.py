"""Perplexity: windows, log probabilities and what is made of them, against float64."""

import json
import math

import numpy as np
import pytest

from llama_cu import LLM, RequestError
from llama_cu.cli.main import run
from llama_cu.perplexity import Perplexity, perplexity, windows
from tests.checkpoints import SMALL_LLAMA, random_checkpoint
from tests.cuda_on_cpu import CpuDevice
from tests.tokenizers_made_here import byte_level

TEXT = "The old owl had 12 stories to tell — naïve ones, “true” ones.\n\nA café, 海亀, 🐢! " * 3
SHORT = TEXT[:60]


@pytest.fixture(scope="module", params=[True, False], ids=["BOS", "no BOS"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("perplexity")
    tokenizer = byte_level(adds_bos=request.param)
    random_checkpoint(path, {**SMALL_LLAMA, "vocab_size": tokenizer.get_vocab_size()}, seed=5)
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"bos_token": "<s>", "add_bos_token": request.param}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def llm(folder):
    return LLM(folder, device="cpu", seed=1)


def expected_logprobs(llm, ids):
    logits = llm.logits(ids)[:-1].astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return logits[np.arange(len(ids) - 1), ids[1:]]


@pytest.mark.parametrize("stride", [1, 3, 6, 9])
@pytest.mark.parametrize("num_tokens", [1, 2, 9, 10, 11, 12, 13, 40])
def test_windows_have_every_token_once_and_the_tokens_before_it(num_tokens, stride):
    had = []
    for window, first in windows(num_tokens, 10, stride):
        assert len(window) <= 10
        assert first == 0 or first - window.start >= 10 - stride
        had += range(first, window.stop)
    assert had == list(range(num_tokens))


def test_logprobs_are_those_of_the_logits(llm):
    ids = llm.encode(SHORT)
    found = llm.logprobs(SHORT)
    assert found.dtype == np.float32 and found.shape == (len(ids) - 1,)
    np.testing.assert_allclose(found, expected_logprobs(llm, ids), rtol=0, atol=1e-5)
    np.testing.assert_allclose(llm.logprobs(ids, first=30), found[29:], rtol=0, atol=1e-5)
    assert llm.logprobs(ids[:1]).shape == (0,)
    assert llm.engine.scheduler.allocator.num_free == llm.engine.cache.num_blocks


def test_logprobs_in_chunks_are_the_same(llm, folder):
    whole = llm.logprobs(SHORT)
    chunked = LLM(folder, device="cpu", max_batch_tokens=7)
    np.testing.assert_allclose(chunked.logprobs(SHORT), whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(chunked.logprobs(SHORT, first=12), whole[11:], rtol=0, atol=1e-5)


def test_logprobs_of_the_kernels_are_numpys(llm, folder):
    on_cuda = LLM(folder, device=CpuDevice(), dtype="float32", kv_cache_bytes=1 << 20)
    ids = llm.encode(TEXT)[:40]
    np.testing.assert_allclose(on_cuda.logprobs(ids), llm.logprobs(ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("context, stride", [(None, None), (16, 15), (16, 4), (33, 16)])
def test_each_token_is_scored_behind_its_own_window(llm, context, stride):
    ids = llm.encode(TEXT)
    bos = ids[:1] if ids[0] == llm.tokenizer.bos_token_id else []
    body = ids[len(bos) :]
    room = (context or llm.max_model_len) - len(bos)
    nats, scored = 0.0, 0
    start = done = 0
    while done < len(body):
        window = bos + body[start : start + room]
        logprobs = expected_logprobs(llm, window)
        new = min(len(body), start + room) - done
        nats -= logprobs[-min(new, len(logprobs)) :].sum()
        scored += min(new, len(logprobs))
        done += new
        start += stride or (context or llm.max_model_len) // 2

    seen = []
    found = perplexity(
        llm,
        TEXT,
        context=context,
        stride=stride,
        progress=lambda done, total: seen.append((done, total)),
    )

    assert found.num_tokens == scored == len(ids) - 1
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats / scored), rel=1e-4)
    unscored = 0 if bos else len(llm.tokenizer.first_piece(body[0]))
    assert found.num_bytes == len(TEXT.encode()) - unscored
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / found.num_bytes, rel=1e-5)
    assert seen[-1] == (len(body), len(body))


def test_a_hopeless_model_has_infinite_perplexity():
    assert Perplexity(num_tokens=2, num_bytes=4, nats=1e4).perplexity == math.inf


@pytest.mark.parametrize(
    "options, words",
    [
        ({"context": 1}, "context must be an integer of at least 2"),
        ({"context": 10**6}, "context must be an integer of at least 2, at most"),
        ({"context": 16, "stride": 16}, "stride must be an integer of at least 1, at most 15"),
        ({"stride": 0}, "stride must be an integer of at least 1"),
    ],
)
def test_windows_that_cannot_be_are_refused(llm, options, words):
    with pytest.raises(ValueError, match=words):
        perplexity(llm, TEXT, **options)


def test_a_text_without_tokens_to_score_is_refused(llm):
    with pytest.raises(RequestError, match="no token to score"):
        perplexity(llm, "")
    with pytest.raises(ValueError, match="first must be an integer of at least 1, at most 3"):
        llm.logprobs([5, 6, 7], first=4)
    with pytest.raises(RequestError, match="more than max_model_len"):
        llm.logprobs([5] * (llm.max_model_len + 1))


class TestProgram:
    def run(self, capsys, *arguments):
        code = run(["perplexity", "--device", "cpu", *arguments])
        return code, *capsys.readouterr()

    def test_json_has_what_the_library_finds(self, llm, folder, tmp_path, capsys):
        text = tmp_path / "text.txt"
        text.write_text(TEXT, encoding="utf-8")
        options = ("--context", "32", "--stride", "8", "--json")
        code, out, _ = self.run(capsys, "--model", str(folder), "--text", str(text), *options)
        found, expected = json.loads(out), perplexity(llm, TEXT, context=32, stride=8)
        assert code == 0
        assert found["perplexity"] == pytest.approx(expected.perplexity, rel=1e-4)
        assert found["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-4)
        assert (found["tokens"], found["bytes"]) == (expected.num_tokens, expected.num_bytes)

    def test_the_table_has_the_same(self, folder, tmp_path, capsys):
        text = tmp_path / "text.txt"
        text.write_text(TEXT, encoding="utf-8")
        code, out, _ = self.run(capsys, "--model", str(folder), "--text", str(text))
        rows = dict(line.split(maxsplit=1) for line in out.splitlines() if " per " not in line)
        assert code == 0 and float(rows["perplexity"]) > 1 and rows["dtype"] == "float32"

    def test_files_that_are_no_text_are_named(self, tmp_path, capsys):
        damaged = tmp_path / "damaged.txt"
        damaged.write_bytes(b"good until \xff here")
        code, _, err = self.run(capsys, "--text", str(damaged))
        assert code == 2 and "damaged.txt: expected UTF-8, found other bytes at 11" in err
        code, _, err = self.run(capsys, "--text", str(tmp_path / "absent.txt"))
        assert code == 1 and "absent.txt: cannot be read: No such file" in err
