"""Measure an exported model: bits per byte, sampled stories, chat transcripts.

    python evaluate.py story MODEL_DIR DATA_DIR --samples 50
    python evaluate.py chat MODEL_DIR

What is printed is meant to be read: the figures say nothing about whether a child would follow.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from corpus import clean, load_tinystories
from scoring import bits_per_byte

STORY_TOKENS = 300
CHAT_TOKENS = 700
Message = dict[str, str]
OPENINGS = [
    "Once upon a time",
    "Once upon a time, there was a tiny snail named Gloria who wanted to see the ocean.",
    "Once there was a boy who found a glowing egg",
    "The old lighthouse was very dark that night.",
    "One morning, Zuri heard a strange noise in the kitchen.",
    "Tom and Mia were playing with a big red ball.",
    "There was once a little cloud who did not want to rain.",
    "Grandpa had a wooden chest that nobody was allowed to open.",
    "A small dragon lived alone in a cave.",
    "It was the first day of winter, and the snow was deep.",
    "Benny the bear woke up hungry.",
    "In the middle of the forest stood a very old tree.",
    "Sara had a secret.",
    "One day, a girl named Ruth lost her favorite hat.",
    "The little train could not climb the hill.",
    "Once upon a time, in a quiet village, there lived a baker",
    "Lily did not want to share her cake.",
    '"Wait for me!" shouted the little duck.',
    "A mouse and an elephant met at the river.",
    "Jack's kite was stuck in a tree.",
    "The moon was sad because",
    "One rainy day, Omar found a key.",
    "Once there was a robot who could not smile.",
    "The princess was tired of her castle.",
    "Every night, a fox came to the garden.",
]
UNSEEN_SUBJECTS = [
    "cactus",
    "tugboat",
    "marmot",
    "ballerina",
    "quokka",
    "tangerine",
    "accordion",
    "boomerang",
    "hovercraft",
    "marshmallow",
    "stapler",
    "beetroot",
    "axolotl",
    "tapir",
    "capybara",
    "stegosaurus",
    "spatula",
    "doorbell",
    "thimble",
    "sundial",
    "typewriter",
    "zeppelin",
    "ogre",
    "barber",
    "trombone",
    "lemur king",
    "velvet sofa",
    "grandpa's clock",
    "smiling turnip",
    "purple snorkel",
]
CONVERSATIONS = [
    ["hello", "tell me a story about a dragon who can't fly", "can you tell me another one?"],
    ["Tell me a story about a dragon who can't fly.", "make it shorter", "thank you!"],
    ["who are you?", "what can you do?", "tell me a story about a trombone"],
    ["my name is Tom", "tell me a story about me", "what is my name?"],
    ["I am sad", "yes please"],
    ["Hi! How are you?", "I'm fine. Tell me a story."],
    ["what is 12 times 7?", "ok, then a story about a lost mitten"],
    ["Write a python program that sorts a list."],
    ["tell me a joke", "haha, another one"],
    ["I can't sleep", "a story about the moon please"],
    ["Can you write a story about a marmot and a cactus?", "what happened next?"],
    ["story about a purple snorkel"],
    ["a girl named Wilhelmina"],
    ["I want a story about friendship", "that was boring"],
    ["tell me about a brave little tugboat", "who was in the story?", "good night"],
    ["What's the news today?", "bye"],
    ["Please tell me a story about a king who is afraid of spiders."],
    ["a story about my dog Bruno"],
    ["tell me a story about a witch who lost her broom", "one more about a wizard"],
    ["who made you?", "do you like pizza?", "tell me a story with a pizza in it"],
    ["Tell me a scary story about a ghost."],
    ["hey", "nothing", "ok"],
    ["I am angry at my sister", "no"],
    ["Tell me a story about two friends who build a boat."],
    ["tell me a story about a trip to the moon", "again", "thanks, good night"],
]


def looped(text: str) -> bool:
    """A sentence or a run of eight words comes three times or more."""
    sentences = Counter(s.strip() for s in re.split(r"[.!?\n]", text) if len(s.split()) > 3)
    words = text.split()
    runs = Counter(tuple(words[i : i + 8]) for i in range(len(words) - 7))
    return max([*sentences.values(), *runs.values(), 0]) >= 3


def distinct(text: str, size: int) -> float:
    words = text.lower().split()
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return len(set(runs)) / max(1, len(runs))


def keeps_characters(text: str) -> bool:
    """Whoever is presented by name early is still there late."""
    half = len(text) // 2
    named = re.findall(r"(?:named|called|name was) ([A-Z]\w+)", text[:half])
    return all(name in text[half:] for name in named)


class Sampler:
    """Samples at the settings in the model's own generation_config.json."""

    def __init__(self, folder: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32
        ).eval()

    def sample(self, prompts: list[str], most: int, special: bool = True) -> list[tuple[str, bool]]:
        """For each prompt what follows, and whether it ended within `most` tokens in all."""
        batch = self.tokenizer(
            prompts, return_tensors="pt", padding=True, add_special_tokens=special
        )
        out = self.model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=most,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        results = []
        new = out[:, batch.input_ids.shape[1] :].tolist()
        for row, prompt_length in zip(new, batch.attention_mask.sum(1).tolist(), strict=True):
            kept = row[: most - prompt_length]
            ended = self.tokenizer.eos_token_id in kept
            kept = kept[: kept.index(self.tokenizer.eos_token_id)] if ended else kept
            results.append((self.tokenizer.decode(kept), ended))
        return results

    def answers(self, conversations: list[list[Message]]) -> list[str]:
        prompts = [
            self.tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True)
            for c in conversations
        ]
        return [text for text, _ in self.sample(prompts, CHAT_TOKENS, special=False)]


def first_sentence(story: str) -> str:
    found = re.match(r"[^.!?]*[.!?]\"?", story)
    return found.group() if found else story


def evaluate_story(
    sampler: Sampler, folder: Path, data: Path, samples: int, unseen_openings: bool
) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    _, held_out = load_tinystories(data)
    score = bits_per_byte(lambda ids: sampler.model(ids).logits, tokenizer, held_out)
    print(f"held-out bits per byte: {score:.4f} ({len(held_out)} stories)", flush=True)
    known = [first_sentence(clean(s)) for s in held_out] if unseen_openings else OPENINGS
    openings = [known[index % len(known)] for index in range(samples)]
    results = sampler.sample(openings, STORY_TOKENS)
    stories = [opening + text for opening, (text, _) in zip(openings, results, strict=True)]
    for index, (text, (_, ended)) in enumerate(zip(stories, results, strict=True)):
        marks = "" if ended else " (not ended)"
        marks += " (loop)" if looped(text) else ""
        marks += "" if keeps_characters(text) else " (character lost)"
        print(f"\n--- {index + 1}{marks}\n{text}")
    print(f"\nended within {STORY_TOKENS} tokens: {sum(e for _, e in results)} of {samples}")
    print(f"with a loop: {sum(map(looped, stories))} of {samples}")
    print(f"characters kept: {sum(map(keeps_characters, stories))} of {samples}")
    for size in (2, 3):
        print(f"distinct-{size}: {sum(distinct(t, size) for t in stories) / samples:.3f}")


def evaluate_chat(sampler: Sampler) -> None:
    talks: list[list[Message]] = [[] for _ in CONVERSATIONS]
    for turn in range(max(map(len, CONVERSATIONS))):
        open_talks = []
        for talk, said in zip(talks, CONVERSATIONS, strict=True):
            if turn < len(said):
                talk.append({"role": "user", "content": said[turn]})
                open_talks.append(talk)
        for talk, answer in zip(open_talks, sampler.answers(open_talks), strict=True):
            talk.append({"role": "assistant", "content": answer})
    for talk in talks:
        print("\n---")
        for message in talk:
            print(f"{message['role']}: {message['content']}", flush=True)
    requests: list[list[Message]] = [
        [{"role": "user", "content": f"Tell me a story about a {subject}."}]
        for subject in UNSEEN_SUBJECTS
    ]
    told = 0
    for subject, answer in zip(UNSEEN_SUBJECTS, sampler.answers(requests), strict=True):
        kept = answer.lower().count(subject.split()[-1]) >= 2
        told += kept
        print(f"\n[{subject}] {'kept' if kept else 'LOST'}: {answer}")
    print(f"\nunseen subjects named twice or more: {told} of {len(UNSEEN_SUBJECTS)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("story", "chat"))
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, nargs="?", help="folder with tinystories-*.txt")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument(
        "--unseen-openings", action="store_true", help="the first sentences of held-out stories"
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sampler = Sampler(args.model, args.seed)
    if args.kind == "story":
        evaluate_story(sampler, args.model, args.data, args.samples, args.unseen_openings)
    else:
        evaluate_chat(sampler)


if __name__ == "__main__":
    main()
