"""Train the byte-level BPE tokenizer that both models share.

    python tokenizer.py DATA_DIR OUT_DIR

Any UTF-8 text survives the round trip, because the 256 bytes are in the vocabulary.
"""

import argparse
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from corpus import clean, load_tinystories

VOCAB_SIZE = 2048
STORY, END, IM_START, IM_END = "<|story|>", "<|end|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = [END, STORY, IM_START, IM_END]


def train_tokenizer(texts: list[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """A tokenizer without a post-processor; the story model's adds the start token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def add_start_token(tokenizer: Tokenizer) -> None:
    """Put `<|story|>` in front of every encoded text."""
    start_id = tokenizer.token_to_id(STORY)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{STORY} $A",
        pair=f"{STORY} $A {STORY} $B",
        special_tokens=[(STORY, start_id)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with tinystories-*.txt")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    stories, _ = load_tinystories(args.data)
    args.out.mkdir(parents=True, exist_ok=True)
    train_tokenizer([clean(s) for s in stories]).save(str(args.out / "tokenizer.json"))


if __name__ == "__main__":
    main()
