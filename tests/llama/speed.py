#!/usr/bin/env python3
"""Decode speed of the real llama.cpp with its own attention and with Tersa's, one thread, f16 cache.

The context is decoded once by llama.cpp and kept as a session file in STATES. Each length loads its file, decodes the last part once more
(which notes its queries), and then times single tokens in each way, in turns. CPU time of the process; best round. `build` is
training and coding of all indexes, at the first step of a way.

usage: speed.py LIBRARY MODEL.gguf NOVEL.txt --lengths 1024,2048,4096,8064 --states DIR [--tokens N] [--rounds N] [--ways W,...]
"""
import argparse
import json
import os
import time

from engine import Context, Model
from hook import Hook, Way

LAST = 384


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("library")
    ap.add_argument("model")
    ap.add_argument("novel")
    ap.add_argument("--lengths", default="1024,2048,4096,8064")
    ap.add_argument("--states", required=True)
    ap.add_argument("--tokens", type=int, default=24)
    ap.add_argument("--rounds", type=int, default=2)
    ap.add_argument("--ways", default="llama,dense,paper-2x6:0.1,default:0.1,default:0.03")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--prepare", action="store_true", help="only write the session files")
    ap.add_argument("--json")
    args = ap.parse_args()
    lengths = sorted(int(n) for n in args.lengths.split(","))
    ways = [Way.parse(w) for w in args.ways.split(",")]
    model = Model(args.model)
    with open(args.novel, encoding="utf-8") as f:
        tokens = model.tokens(f.read(8 * (lengths[-1] + args.tokens) + 4096))
    stem = os.path.join(args.states, os.path.basename(args.model).split(".")[0] + "-" + os.path.basename(args.novel).split(".")[0])
    state = lambda n: f"{stem}-{n}.state"
    os.makedirs(args.states, exist_ok=True)
    if not all(os.path.exists(state(n)) for n in lengths):
        ctx = Context(model, lengths[-1], threads=args.threads)
        for n in lengths:
            ctx.decode(tokens[ctx.n:n])
            ctx.save(state(n), tokens[:n])
            print(f"wrote {state(n)}", flush=True)
        ctx.close()
    if args.prepare:
        return
    rows = []
    for n in lengths:
        n_ctx = -(-(n + args.tokens + 8) // 256) * 256
        hook = Hook(args.library, n_ctx)
        ctx = Context(model, n_ctx, threads=args.threads, callback=hook.callback, user=hook.user)
        assert ctx.load(state(n), n), state(n)
        ctx.truncate(n - LAST)
        hook.prompt()
        ctx.decode(tokens[n - LAST:n])
        best, build = {}, {}
        for _ in range(args.rounds):
            for way in ways:
                ctx.truncate(n)
                hook.use(way)
                t0 = time.process_time()
                ctx.decode(tokens[n:n + 1], "last")
                t1 = time.process_time()
                for token in tokens[n + 1:n + args.tokens]:
                    ctx.decode([token], "last")
                ms = 1e3 * (time.process_time() - t1) / (args.tokens - 1)
                best[way] = min(best.get(way, ms), ms)
                build[way] = max(build.get(way, 0), t1 - t0 - ms / 1e3)
        for way in ways:
            rows.append({"context": n, "way": str(way), "ms": best[way], "build": build[way]})
            print(f"{n:6} {str(way):16} {best[way]:8.2f} ms/token {1e3 / best[way]:8.1f} tokens/s  {best[ways[0]] / best[way]:5.2f}x"
                  f"  build {build[way]:6.2f} s", flush=True)
        ctx.close()
        hook.close()
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(rows, f)


if __name__ == "__main__":
    main()
