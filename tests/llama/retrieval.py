#!/usr/bin/env python3
"""Passkey retrieval in the real llama.cpp with Tersa selecting what its attention reads.

A sentence with a five-digit key is put into the first part of a novel, at depths spread evenly over the trials. The text
is decoded by llama.cpp's own attention; then the key is asked for, and the tokens of question and answer attend in each
of the ways. Greedy; found if the digits are in the answer. The same text grows on to the next length.

usage: retrieval.py LIBRARY MODEL.gguf NOVEL.txt --lengths 2048,4096 [--trials N] [--ways W,...] [--json OUT]
"""
import argparse
import json
import random
import time

import numpy as np

from engine import Context, Model
from hook import Hook, Way

WAYS = "llama," + ",".join(f"{w}:{b}" for w in ("exact", "paper-2x6", "default") for b in (0.1, 0.03, 0.01))
NEEDLE = "\n\nThe secret passkey of the vault is {key}. Remember it. {key} is the passkey.\n\n"
CHAT = ("<|im_start|>user\n", "\n\nWhat is the secret passkey of the vault?<|im_end|>\n<|im_start|>assistant\nThe secret passkey of the vault is")
PLAIN = ("", "\n\nThe secret passkey of the vault, which was given above, is")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("library")
    ap.add_argument("model")
    ap.add_argument("novel")
    ap.add_argument("--lengths", default="2048,4096")
    ap.add_argument("--trials", type=int, default=20)
    ap.add_argument("--first", type=int, default=0, help="number of the first trial")
    ap.add_argument("--of", type=int, default=20, help="trials over which depths are spread")
    ap.add_argument("--ways", default=WAYS)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--json")
    args = ap.parse_args()
    lengths = [int(n) for n in args.lengths.split(",")]
    ways = [Way.parse(w) for w in args.ways.split(",")]
    model = Model(args.model)
    before, after = CHAT if "smollm" in args.model.lower() else PLAIN
    before = model.tokens(before, special=True)
    after = model.tokens(after, bos=False, special=True)
    with open(args.novel, encoding="utf-8") as f:
        novel = model.tokens(f.read(), bos=False)
    n_ctx = lengths[-1] + 256
    hook = Hook(args.library, n_ctx)
    ctx = Context(model, n_ctx, threads=args.threads, callback=hook.callback, user=hook.user)
    found = {}
    for trial in range(args.first, args.first + args.trials):
        rng = random.Random(trial)
        key = str(rng.randrange(10000, 100000))
        needle = model.tokens(NEEDLE.format(key=key), bos=False)
        start = rng.randrange(len(novel) - lengths[-1])
        room = lengths[0] - len(before) - len(needle) - len(after)
        # Not among the sinks, nor in the window.
        depth = 64 + (room - 320) * trial // max(1, args.of - 1)
        text = before + novel[start:start + depth] + needle + novel[start + depth:start + lengths[-1]]
        ctx.truncate(0)
        t0 = time.process_time()
        for length in lengths:
            n = length - len(after)
            hook.prompt()
            ctx.decode(text[ctx.n:n])
            line = []
            hook.last = None  # every length has indexes of its own
            for way in ways:
                ctx.truncate(n)
                hook.use(way)
                token = int(np.argmax(ctx.decode(after, "last")))
                answer = [token]
                while len(answer) < 8 and key not in model.text(answer):
                    token = int(np.argmax(ctx.decode([token], "last")))
                    answer.append(token)
                hit = key in model.text(answer)
                found.setdefault((length, str(way)), []).append(hit)
                line.append("x" if hit else ".")
            ctx.truncate(n)
            print(f"trial {trial:2} length {length:5} depth {depth:5}  {''.join(line)}  {time.process_time() - t0:6.1f} s", flush=True)
    print(f"\nfound, of {args.trials}: " + ", ".join(str(n) for n in lengths))
    for way in ways:
        print(f"{str(way):22} " + "  ".join(f"{sum(found[n, str(way)]):3}/{len(found[n, str(way)])}" for n in lengths))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump([{"length": n, "way": w, "found": hits} for (n, w), hits in found.items()], f)


if __name__ == "__main__":
    main()
