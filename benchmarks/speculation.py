"""What guessing tokens gains: the same answers with `speculate="ngram"` and without, in turns.

    python -m benchmarks.speculation --model FOLDER --json FILE

The prompts are what the guesses are for, a text to summarise and code to edit, and one that they
are not for. Greedy; the answers must be the same, and the report says whether they were.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import describe_run, load_average, rates, ratios, table, write_json
from llama_cu.llm import LLM
from llama_cu.sampling_params import SamplingParams
from llama_cu.speculation import NgramDrafter

REPORT = """\
The harbour committee met on Tuesday evening in the old customs house. Anna Brandt, who has led
the committee for six years, opened the meeting with the news that the north pier must be closed
until spring. Divers had found cracks in four of its eleven pillars. The repair will cost about
two hundred thousand euros, of which the county pays half. Peter Holm asked whether the ferry to
the islands could land at the south pier for so long. The harbour master said that the water there
is deep enough at high tide only, so that the ferry would have to leave twice a day instead of
five times. The committee voted to dredge the south pier in January. Two members voted against it,
because of the herring that spawn there. The next meeting is on the first Tuesday of December.
"""
CODE = """\
def read_table(path, separator=","):
    rows = []
    with open(path) as file:
        header = file.readline().strip().split(separator)
        for line in file:
            values = line.strip().split(separator)
            rows.append(dict(zip(header, values)))
    return rows


def write_table(path, rows, separator=","):
    header = list(rows[0])
    with open(path, "w") as file:
        file.write(separator.join(header) + "\\n")
        for row in rows:
            file.write(separator.join(str(row[name]) for name in header) + "\\n")
"""
PROMPTS = {
    "summary": f"Summarize this report, quoting its important sentences word by word.\n\n{REPORT}",
    "code edit": f"Rename `rows` to `records` in this Python code. Print all of it.\n\n{CODE}",
    "free": "Write a story about a lighthouse keeper who finds a map.",
}
WAYS = {"plain": None, "ngram": "ngram"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a model that chats")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the report here")
    arguments = parser.parse_args()
    llms = {
        name: LLM(arguments.model, device=arguments.device, speculate=way)
        for name, way in WAYS.items()
    }
    report = compare(llms, num_tokens=arguments.tokens, repeats=arguments.repeats)
    report["model"] = arguments.model.resolve().name
    print(table(report["results"]))
    for prompt, found in report["guesses"].items():
        print(f"{prompt}: {found}, {report['ratios'][prompt]}")
    write_json(arguments.json, report)
    return 0


def compare(llms: dict[str, LLM], *, num_tokens: int, repeats: int) -> dict[str, Any]:
    """Decode rates of each prompt's answer, how many guesses were right, and ratios."""
    load_before = load_average()
    results: dict[str, Any] = {}
    guesses = {}
    for prompt, text in PROMPTS.items():
        timed: dict[str, list[tuple[int, float]]] = {name: [] for name in llms}
        answers = {}
        for _ in range(repeats + 1):
            for name, llm in llms.items():
                answers[name], found = _answer(llm, text, num_tokens)
                timed[name].append((len(answers[name]) - 1, found["decode_s"]))
                if name == "ngram":
                    guesses[prompt] = {k: v for k, v in found.items() if k != "decode_s"}
        guesses[prompt]["same_answer"] = len({tuple(ids) for ids in answers.values()}) == 1
        results[prompt] = {
            name: rates(*zip(*samples[1:], strict=True)) for name, samples in timed.items()
        }
    return {
        **describe_run(),
        "device": llms["plain"].device_name,
        "dtype": llms["plain"].dtype,
        "results": results,
        "ratios": {prompt: ratios(found, of="ngram") for prompt, found in results.items()},
        "guesses": guesses,
        "load_average": {"before": load_before, "after": load_average()},
    }


def _answer(llm: LLM, text: str, num_tokens: int) -> tuple[list[int], dict[str, Any]]:
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    token_ids = llm.encode_chat([{"role": "user", "content": text}])
    (sequence,) = llm.sequences(token_ids, params)
    llm.engine.submit(sequence)
    num_steps = 0
    while not sequence.finished:
        num_steps += bool(llm.engine.step())
    assert sequence.first_token_s is not None and sequence.finish_s is not None
    found: dict[str, Any] = {"decode_s": sequence.finish_s - sequence.first_token_s}
    if sequence.drafter is not None:
        assert isinstance(sequence.drafter, NgramDrafter)
        found["tokens_a_step"] = round(sequence.num_generated / num_steps, 2)
        found["guessed"] = sequence.drafter.num_drafted
        found["right"] = sequence.drafter.num_accepted
    return sequence.answer_ids, found


if __name__ == "__main__":
    sys.exit(main())
