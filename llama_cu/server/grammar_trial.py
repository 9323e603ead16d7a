"""Compiles grammars: for good, or on trial in a process that may take so much and no more.

A schema comes from anyone, and one line of it can cost minutes and gigabytes.
"""

from __future__ import annotations

import json
import subprocess
import sys

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

# Processor seconds, seconds by the clock, and bytes of address space of one trial.
_CPU_S, _WALL_S, _MEMORY_BYTES = 2, 30, 2 << 30

# A mask may cost that much of llguidance's fuel: 6 ms for a vocabulary of 128,000 on Zen 3, where
# masks of everyday schemas need a tenth. Whoever asks for more ends alone, and stalls nobody.
_STEP_FUEL = 50_000
# Of one to two kilobytes each. A string with a maxLength needs one for each of its characters.
_MAX_LEXER_STATES = 100_000

_BOOTSTRAP = (
    "import json, sys; job = json.load(sys.stdin); sys.path[:] = job['path']; "
    "from llama_cu.server.grammar_trial import run_trial; run_trial(job['grammar'])"
)


def compile_grammar(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher at the grammar's start. ValueError with the reason where it cannot be followed."""
    limits = LLParserLimits(
        step_lexer_fuel=_STEP_FUEL, max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False
    )
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()  # the first mask costs the most, and some grammars have none
    if matcher.is_error():
        raise ValueError(_reason(matcher))
    return matcher


def _reason(matcher: LLMatcher) -> str:
    reason = matcher.get_error().removesuffix("\n<non-verbose/>")
    return "no text satisfies it" if reason == "NoExtensionBias" else reason


def try_grammar(grammar: str) -> None:
    """Compile a grammar in a child process. ValueError with the reason where that fails."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", _BOOTSTRAP],
            input=json.dumps({"path": sys.path, "grammar": grammar}),
            capture_output=True,
            text=True,
            timeout=_WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        child = None
    if child is None or child.returncode < 0:
        raise ValueError("it takes too much time or memory to compile")
    if child.returncode != 0:
        raise RuntimeError(f"a grammar could not be tried: {child.stderr}")
    if child.stdout:
        raise ValueError(child.stdout)


def run_trial(grammar: str) -> None:
    """What the child does: nothing is written where the grammar compiles, else the reason."""
    _limit_this_process()
    try:
        compile_grammar(LLTokenizer("byte"), grammar)
    except ValueError as error:
        sys.stdout.write(str(error))


def _limit_this_process() -> None:
    try:
        import resource
    except ImportError:  # not on Windows, where the time by the clock has to do
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
