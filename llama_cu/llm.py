"""LLM: loads a checkpoint, wires the rooms together, and answers."""

from __future__ import annotations

import secrets
from collections.abc import Sequence as Seq
from dataclasses import asdict
from pathlib import Path
from random import Random
from threading import RLock
from typing import Any

import numpy as np

from llama_cu.arguments import check_integer
from llama_cu.checkpoint.checkpoint import open_checkpoint
from llama_cu.checkpoint.tokenizer import StreamDecoder
from llama_cu.errors import ModelError, RequestError
from llama_cu.find_model import find_model
from llama_cu.ops.cuda_matvec import MAX_MATVEC_ROWS
from llama_cu.ops.device import Device
from llama_cu.ops.numpy_ops import NumpyOps
from llama_cu.output import Output, TextStream, output_of
from llama_cu.prompts import Message, Prompt, PromptReader
from llama_cu.sampling_params import MAX_SEED, SamplingParams
from llama_cu.sequence import Sequence
from llama_cu.speculation import NgramDrafter
from llama_cu.startup import EngineOptions, Progress, start_engine
from llama_cu.stopping import StopStrings


class LLM:
    """A Llama-family model, ready to answer.

    `model` is a folder in Hugging Face layout, a GGUF file, or a name: story or chat for the
    embedded models, an alias or a hub's id for one that `llama-cu pull` fetched. `device` is auto,
    cpu, cuda, or a Device to run the CUDA kernels on; `dtype` auto, float32, float16 or bfloat16
    (auto: the checkpoint's on CUDA, float32 on the CPU). `quantize` int8 or int4 holds the matrices
    of the layers in so many bits and the LM head in 8, by `quantized.quantize`; a CPU computes with
    what they are worth. Without it a GPU keeps those of a GGUF file in as many bits as the file
    has; `none` expands them to `dtype`. `kv_dtype` int8 holds the KV cache in 8 bits, auto as
    `dtype`.
    `low_memory` has a CPU hold matrices as small as the file, or `quantize`, has them, and expand
    them in each step; it is slower.
    `kv_cache_bytes` bounds the KV cache; without it, `gpu_memory_utilization` is the cache's share
    of the memory that is free once the weights are placed (as far as `max_num_seqs` long sequences
    could come to use it). `max_model_len` bounds prompt and
    answer together. On a GPU, steps of decode are captured as CUDA graphs unless `enforce_eager`.
    `speculate="ngram"` has each step check guesses from the text so far too; the answers stay the
    same. `seed` makes requests without a seed of their own repeatable. Raises
    ModelError for a checkpoint that cannot be run, BackendUnavailable for a device that is not
    there, ValueError for wrong arguments. Threads may share it; their answers are batched.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str | Device = "auto",
        dtype: str = "auto",
        quantize: str | None = None,
        kv_dtype: str = "auto",
        low_memory: bool = False,
        max_model_len: int | None = None,
        kv_cache_bytes: int | None = None,
        seed: int | None = None,
        gpu_memory_utilization: float = 0.9,
        max_num_seqs: int = 64,
        max_batch_tokens: int | None = None,
        block_size: int = 16,
        enforce_eager: bool = False,
        speculate: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        if not isinstance(model, str | Path) or model == "":
            raise ValueError(f"model must be a path or a name, got {model!r}")
        options = EngineOptions(
            device=device,
            dtype=dtype,
            quantize=quantize,
            kv_dtype=kv_dtype,
            low_memory=low_memory,
            max_model_len=max_model_len,
            kv_cache_bytes=kv_cache_bytes,
            gpu_memory_utilization=gpu_memory_utilization,
            max_num_seqs=max_num_seqs,
            max_batch_tokens=max_batch_tokens,
            block_size=block_size,
            enforce_eager=enforce_eager,
            speculate=speculate,
        )
        if seed is not None:
            check_integer("seed", seed, 0, MAX_SEED)
        if progress is not None and not callable(progress):
            raise ValueError(f"progress must be callable, got {progress!r}")
        checkpoint = open_checkpoint(find_model(model) if isinstance(model, str) else model)
        self.config, self.tokenizer = checkpoint.config, checkpoint.tokenizer
        self._prompts = PromptReader(self.tokenizer, self.config.vocab_size)
        self._speculate = speculate is not None
        self.max_model_len = options.model_len(self.config)
        self.engine, self.device_note = start_engine(checkpoint, options, progress)
        ops = self.engine.model.ops
        self.device_name, self.dtype = ops.device_name, ops.dtype.name
        self.eos_token_ids = checkpoint.eos_token_ids
        self._lock = RLock()
        self._random = Random(secrets.randbits(64) if seed is None else int(seed))
        if not isinstance(ops, NumpyOps):
            self._warm_up()

    def _warm_up(self) -> None:
        """Compile or load what a prefill, a decode and a draw need: no request waits for it.

        The prompt has a row more than our kernels multiply, so that cuBLAS loads its own too.
        """
        params = SamplingParams(max_tokens=2, ignore_eos=True)
        room = min(self.max_model_len, self.engine.capacity)
        if room > 3:
            self._run([self._sequence([0] * min(MAX_MATVEC_ROWS + 1, room - 2), params, 0)])

    def generate(
        self,
        prompts: Prompt | Seq[Prompt],
        params: SamplingParams | Seq[SamplingParams] | None = None,
    ) -> list[Output]:
        """Answers to prompts, batched by the engine; `params.n` outputs per prompt, in order.

        A prompt is a string or a list of token ids; params are for all, or a list of one for
        each. Without params, the model's own (generation_config.json) apply. Raises ValueError
        for a prompt that is neither or is empty, RequestError for one that does not fit the
        context.
        """
        token_lists = self._prompts.encode_all(prompts)
        if isinstance(params, list | tuple):
            each = [self._params(own) for own in params]
        else:
            each = [self._params(params)] * len(token_lists)
        if len(each) != len(token_lists):
            raise ValueError(f"{len(token_lists)} prompts need as many params, got {len(each)}")
        sequences = [
            sequence
            for token_ids, own in zip(token_lists, each, strict=True)
            for sequence in self.sequences(token_ids, own)
        ]
        return self._run(sequences)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> TextStream:
        """The answer's text in pieces, as they come; never half a character."""
        return self._stream(self.encode(prompt), self._params(params))

    def chat(self, messages: Seq[Message], params: SamplingParams | None = None) -> Output:
        """The assistant's answer to messages of role and content, by the model's chat template."""
        params = self._params(params)
        return self._run(self.sequences(self.encode_chat(messages), params))[0]

    def chat_stream(
        self, messages: Seq[Message], params: SamplingParams | None = None
    ) -> TextStream:
        """`chat`, in pieces. What earlier turns left in the KV cache is reused."""
        return self._stream(self.encode_chat(messages), self._params(params))

    def count_chat_tokens(self, messages: Seq[Message]) -> int:
        """Tokens of the messages as a prompt."""
        return len(self.encode_chat(messages))

    def logits(self, token_ids: Seq[int]) -> np.ndarray:
        """float32 logits at every position: [num_tokens, vocab_size]."""
        sequence = self._scored(self._prompts.check_ids(token_ids))
        with self._lock:
            return self.engine.score(sequence)

    def logprobs(self, text: Prompt, *, first: int = 1) -> np.ndarray:
        """Log probability of each token of a text, from number `first` on, given those before.

        Natural logarithms of the softmax at temperature 1, float32 [num_tokens - first]; the tokens
        are those of `encode(text)`. `perplexity.perplexity` does longer texts. Raises RequestError
        for a text that does not fit the context, ValueError where `first` is not one of its tokens.
        """
        token_ids = self.encode(text)
        check_integer("first", first, 1, len(token_ids))
        sequence = self._scored(token_ids)
        with self._lock:
            return self.engine.logprobs(sequence, first)

    def _scored(self, token_ids: list[int]) -> Sequence:
        if len(token_ids) > self.max_model_len:
            raise RequestError(
                f"{len(token_ids)} tokens are more than max_model_len = {self.max_model_len}"
            )
        return self._sequence(token_ids, SamplingParams(), 0)

    @property
    def context_len(self) -> int:
        """Tokens that prompt and answer may have together, if the cache holds so many."""
        return min(self.max_model_len, self.engine.capacity)

    def default_params(self) -> SamplingParams:
        """SamplingParams from the model's generation_config.json; ModelError where it is wrong."""
        stated = asdict(self.config.generation)
        if stated.pop("do_sample") is False:
            stated["temperature"] = 0.0
        try:
            return SamplingParams(**{k: v for k, v in stated.items() if v is not None})
        except ValueError as error:
            raise ModelError(f"generation_config.json: {error}") from error

    def _params(self, params: Any) -> SamplingParams:
        if params is None:
            return self.default_params()
        if not isinstance(params, SamplingParams):
            raise ValueError(f"params must be SamplingParams or None, got {params!r}")
        return params

    def encode(self, prompt: Any) -> list[int]:
        """The token ids of a text, or of ids after a check. ValueError for anything else."""
        return self._prompts.encode(prompt)

    def encode_chat(self, messages: Seq[Message]) -> list[int]:
        """The token ids of a conversation, by the model's chat template."""
        return self._prompts.encode_chat(messages)

    def sequences(self, token_ids: list[int], params: SamplingParams) -> list[Sequence]:
        """`params.n` sequences for the engine, each with a seed of its own."""
        if self.tokenizer is None and params.stop:
            raise ValueError("stop strings need a tokenizer, but the model has no tokenizer.json")
        for name in ("logit_bias", "stop_token_ids"):
            for token_id in getattr(params, name):
                if token_id >= self.config.vocab_size:
                    raise ValueError(
                        f"{name} token ids must be in [0, {self.config.vocab_size}), got {token_id}"
                    )
        seed = self._random.randrange(MAX_SEED + 1) if params.seed is None else params.seed
        return [
            self._sequence(token_ids, params, (seed + index) & MAX_SEED)
            for index in range(params.n)
        ]

    def _sequence(self, token_ids: list[int], params: SamplingParams, seed: int) -> Sequence:
        return Sequence(
            token_ids=list(token_ids),
            prompt_len=len(token_ids),
            params=params,
            seed=seed,
            eos_token_ids=self.eos_token_ids,
            max_len=self.max_model_len,
            decoder=None if self.tokenizer is None else StreamDecoder(self.tokenizer, token_ids),
            stops=StopStrings(tuple(params.stop)),
            drafter=NgramDrafter() if self._speculate else None,
        )

    def _run(self, sequences: list[Sequence]) -> list[Output]:
        try:
            for sequence in sequences:
                self._submit(sequence)
            while not all(sequence.finished for sequence in sequences):
                self._step()
        finally:
            for sequence in sequences:
                self._abort(sequence)
        return [output_of(sequence) for sequence in sequences]

    def _stream(self, token_ids: list[int], params: SamplingParams) -> TextStream:
        if params.n != 1:
            raise ValueError(f"n must be 1 for a stream, got {params.n}")
        (sequence,) = self.sequences(token_ids, params)
        self._submit(sequence)
        return TextStream(sequence, self._step, self._abort)

    # Each thread steps for all: a step computes every sequence that is there.
    def _submit(self, sequence: Sequence) -> None:
        with self._lock:
            self.engine.submit(sequence)

    def _step(self) -> None:
        with self._lock:
            self.engine.step()

    def _abort(self, sequence: Sequence) -> None:
        with self._lock:
            self.engine.abort(sequence)
