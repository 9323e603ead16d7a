"""Train a model for a given time, from nothing or from a checkpoint.

    python train.py DATA TOKENIZER OUT.pt --minutes 60 --mix tiny=0.5,fairy=0.5 --seed 1
    torchrun --nproc-per-node 2 train.py ...    # two processes, each with its own batches

The budget is processor time, so a busy machine or a pause costs none of it: learning rate and mix
follow the share of it that has passed.
Matrices learn by Muon (momentum made orthogonal), embeddings and norms by AdamW. What is saved
is the exponential moving average of the weights.
"""

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

import chat_grammar
import grammar
import sources
from corpus import load_tinystories
from model import Llama, ModelConfig, load_checkpoint, save_checkpoint
from scoring import bits_per_byte

SAVE_EVERY_S = 300.0


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose direction is replaced by the nearest orthogonal matrix."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": 0.95, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"]
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                direction = orthogonal(weight.grad.lerp(momentum, group["momentum"]))
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction, alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """Newton-Schulz iteration towards U V^T, with the quintic whose slope at zero is large."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = (x / (x.norm() + 1e-7)).bfloat16()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


def parse_mix(text: str) -> dict[str, float]:
    return {name: float(share) for name, share in (part.split("=") for part in text.split(","))}


def rate_at(progress: float, level_until: float) -> float:
    """Warm-up over the first 2 %, level, then linear to zero from `level_until` on."""
    falling = (1 - progress) / (1 - level_until) if progress > level_until else 1.0
    return min(1.0, progress / 0.02 + 0.05, falling)


def average_gradients(weights: list[Tensor], world_size: int) -> None:
    flat = torch.cat([weight.grad.flatten() for weight in weights])
    dist.all_reduce(flat)
    parts = (flat / world_size).split([weight.numel() for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.grad.copy_(part.view_as(weight))


def open_sources(
    names: set[str], tokenizer: Tokenizer, data: Path, seed: int, longest: int
) -> dict[str, Iterator[sources.Row]]:
    rows = sources.Rows(tokenizer)
    streams = {
        "tiny": sources.tinystories(rows, data, seed),
        "fairy": sources.fairytales(rows, data, seed),
        "grammar": sources.written_stories(rows, grammar.write_story, seed),
        "opened": sources.continued_openings(rows, data, seed),
        "chat": sources.conversations(rows, chat_grammar.write_conversation, seed, longest),
        "talk": sources.conversations(rows, chat_grammar.write_small_talk, seed, longest),
    }
    return {name: stream for name, stream in streams.items() if name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("tokenizer", type=Path, help="tokenizer.json")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument(
        "--mix", type=parse_mix, required=True, help="tiny, fairy, grammar, opened, chat, talk"
    )
    parser.add_argument("--final-mix", type=parse_mix, help="reached by the end, linearly")
    parser.add_argument("--resume", type=Path, help="checkpoint or exported folder to go on from")
    parser.add_argument("--lr", type=float, default=0.02, help="Muon's; AdamW has a fifth of it")
    parser.add_argument("--level-until", type=float, default=0.5, help="1: never lower the rate")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--ema-decay", type=float, default=0.997)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size > 1:
        dist.init_process_group("gloo")
    final_mix = args.final_mix or args.mix
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    model = Llama(ModelConfig(), args.dropout)
    if args.resume:
        model = load_checkpoint(args.resume, args.dropout)
    seed = args.seed + 1000 * rank
    torch.manual_seed(seed)
    averaged = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    matrices = [w for n, w in model.named_parameters() if w.dim() == 2 and "embed" not in n]
    others = [w for n, w in model.named_parameters() if w.dim() != 2 or "embed" in n]
    optimizers = [
        Muon(matrices, args.lr, args.weight_decay),
        torch.optim.AdamW(others, args.lr / 5, (0.9, 0.98), weight_decay=args.weight_decay / 10),
    ]
    peak_rates = [group["lr"] for opt in optimizers for group in opt.param_groups]
    held_out = load_tinystories(args.data)[1]

    began = saved = time.process_time()
    progress = 0.0

    def shares() -> dict[str, float]:
        return {
            name: (1 - progress) * args.mix.get(name, 0) + progress * final_mix.get(name, 0)
            for name in {*args.mix, *final_mix}
        }

    streams = open_sources(
        {*args.mix, *final_mix},
        tokenizer,
        args.data,
        seed,
        model.config.max_position_embeddings,
    )
    tokens = 0
    recent: list[float] = []
    for step, (token_ids, labels) in enumerate(
        sources.batches(streams, shares, args.batch_tokens, seed)
    ):
        elapsed = torch.tensor(time.process_time() - began)
        if world_size > 1:
            dist.broadcast(elapsed, 0)
        progress = elapsed.item() / (60 * args.minutes)
        if progress >= 1:
            break
        groups = [group for opt in optimizers for group in opt.param_groups]
        for group, peak in zip(groups, peak_rates, strict=True):
            group["lr"] = peak * rate_at(progress, args.level_until)
        learned = labels != sources.IGNORE
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            logits = model.logits(model(token_ids)[learned])
        loss = F.cross_entropy(logits.float(), labels[learned])
        loss.backward()
        if world_size > 1:
            average_gradients([*matrices, *others], world_size)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for opt in optimizers:
            opt.step()
            opt.zero_grad()
        decay = min(args.ema_decay, (step + 1) / (step + 10))
        for name, weight in model.state_dict().items():
            averaged[name].lerp_(weight, 1 - decay)
        tokens += token_ids.numel()
        recent.append(loss.item())
        if step % 20 == 0 and rank == 0:
            print(
                f"step {step} {progress:.1%} loss {sum(recent) / len(recent):.3f} "
                f"tokens {tokens / 1e6:.2f}M {elapsed.item():.0f}s",
                flush=True,
            )
            recent.clear()
        if rank == 0 and time.process_time() - saved > SAVE_EVERY_S:
            saved = time.process_time()
            save_checkpoint(args.out, model.config, averaged)
            report(args.out, tokenizer, held_out)
    if rank == 0:
        save_checkpoint(args.out, model.config, averaged)
        report(args.out, tokenizer, held_out)


def report(path: Path, tokenizer: Tokenizer, held_out: list[str]) -> None:
    model = load_checkpoint(path).eval()
    score = bits_per_byte(lambda ids: model.logits(model(ids)), tokenizer, held_out)
    print(f"held-out bits per byte {score:.4f}", flush=True)


if __name__ == "__main__":
    main()
