#!/usr/bin/env python3
"""Likelihood of text in the real llama.cpp with Tersa selecting what its attention reads.

Of each novel's first N tokens the last ones are scored: the tokens before are decoded by llama.cpp's own attention, the scored ones attend
in each of the ways. Mean negative log-likelihood in nats; change against llama.cpp's attention on the same tokens, with its standard error over all scored tokens.

usage: likelihood.py LIBRARY MODEL.gguf NOVEL.txt... --context N [--scored N] [--ways W,...] [--json OUT]
"""
import argparse
import json
import os
import time

import numpy as np

from engine import Context, Model, nll
from hook import Hook, Way

WAYS = "llama,dense," + ",".join(f"{w}:{b}" for w in ("exact", "paper-2x6", "paper-4x8", "default") for b in (0.2, 0.1, 0.05, 0.02))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("library")
    ap.add_argument("model")
    ap.add_argument("novels", nargs="+")
    ap.add_argument("--context", type=int, default=8192)
    ap.add_argument("--scored", type=int, default=1700)
    ap.add_argument("--ways", default=WAYS)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--json")
    args = ap.parse_args()
    ways = [Way.parse(w) for w in args.ways.split(",")]
    model = Model(args.model)
    hook = Hook(args.library, args.context)
    ctx = Context(model, args.context, threads=args.threads, callback=hook.callback, user=hook.user)
    scores = {way: [] for way in ways}
    prompt = args.context - args.scored
    for novel in args.novels:
        with open(novel, encoding="utf-8") as f:
            tokens = model.tokens(f.read(8 * args.context))[:args.context + 1]
        assert len(tokens) == args.context + 1, f"{novel} is too short"
        targets = np.array(tokens[prompt + 1:])
        ctx.truncate(0)
        hook.prompt()
        ctx.decode(tokens[:prompt])
        hook.last = None
        for way in ways:
            ctx.truncate(prompt)
            hook.use(way)
            t0 = time.process_time()
            rows = [nll(ctx.decode(tokens[at:min(at + 256, args.context)], "all"), targets[at - prompt:at - prompt + 256])
                    for at in range(prompt, args.context, 256)]
            scores[way].append(np.concatenate(rows))
            d = scores[way][-1] - scores[ways[0]][-1]
            print(f"{os.path.basename(novel):24} {str(way):14} {scores[way][-1].mean():.4f}  {d.mean():+.4f} +/- {d.std() / len(d) ** .5:.4f}"
                  f"  {time.process_time() - t0:6.1f} s", flush=True)
    print(f"\n{args.context} tokens, {len(args.novels)} x {args.scored} scored")
    base = np.concatenate(scores[ways[0]])
    for way in ways:
        x = np.concatenate(scores[way])
        print(f"{str(way):14} {x.mean():.4f}  {(x - base).mean():+.4f} +/- {(x - base).std() / len(x) ** .5:.4f}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({str(way): [x.tolist() for x in parts] for way, parts in scores.items()}, f)


if __name__ == "__main__":
    main()
