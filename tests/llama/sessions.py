#!/usr/bin/env python3
"""Session files of the real llama.cpp through `tersa`: how small, and what the model loses.

For each text a prompt is decoded and its sequence saved. The file goes through `tersa compress` and `tersa decompress`, llama.cpp loads
what comes back into a fresh context, and the next tokens are scored: mean change of their negative log-likelihood against
the untouched file, its standard error over tokens, and the mean KL divergence.

Fails when llama.cpp refuses a file, or when an exact codec does not give equal logits.

usage: sessions.py TERSA MODEL.gguf TEXT... [--prompt N] [--scored N] [--json OUT]      needs: llama-cpp-python==0.3.36 numpy
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

from engine import Context, Model, kl, nll

# The first layers by one codec, the rest by another: between two codecs of all layers.
FIRST = '[[rule]]\nlayers = "{}"\ncodec = "{}"\n'
CODECS = {
    "lossless": ["--preset", "lossless"],
    "safe": ["--preset", "safe"],
    "balanced": ["--preset", "balanced"],
    "small": ["--preset", "small"],
    "k4v3": ["--codec", "k=mean+had+lm4+ls,v=had+lm3+ls"],
    "k3v2": ["--codec", "k=mean+had+lm3+ls,v=had+lm2+ls"],
    "ratio 4": ["--ratio", "4"],
    "4x": ["--codec", "k=mean+had+lm4+ls,v=had+lm3+ls", "--policy", FIRST.format("0-1", "k=mean+had+lm3+ls,v=had+lm3+ls")],
    "6x": ["--codec", "k=mean+had+lm2+ls,v=had+lm2+ls", "--policy", FIRST.format("0-5", "k=mean+had+lm3+ls,v=had+lm2+ls")],
}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("tersa")
    ap.add_argument("model")
    ap.add_argument("texts", nargs="+")
    ap.add_argument("--prompt", type=int, default=7104)
    ap.add_argument("--scored", type=int, default=1024)
    ap.add_argument("--codecs", default=",".join(CODECS))
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--json")
    args = ap.parse_args()
    model = Model(args.model)
    rows, failures = {name: [] for name in args.codecs.split(",")}, 0
    with tempfile.TemporaryDirectory() as tmp:
        state, packed, back = (os.path.join(tmp, name) for name in ("s.state", "x.tersa", "back.state"))
        for path in args.texts:
            with open(path, encoding="utf-8") as f:
                tokens = model.tokens(f.read(8 * (args.prompt + args.scored)))
            prompt = tokens[:args.prompt]
            following = tokens[args.prompt:args.prompt + args.scored + 1]
            assert len(following) == args.scored + 1, f"{path} is too short"
            targets = np.array(following[1:])
            ctx = Context(model, args.prompt + args.scored + 64, threads=args.threads)
            ctx.decode(prompt)
            ctx.save(state, prompt)
            ctx.close()

            def judge(file):
                ctx = Context(model, args.prompt + args.scored + 64, threads=args.threads)
                logits = ctx.decode(following[:-1], "all") if ctx.load(file, args.prompt) else None
                ctx.close()
                return logits

            reference = judge(state)
            ref_nll = nll(reference, targets)
            for name in rows:
                quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
                compress = [args.tersa, "compress", state, "-o", packed, "-f", "--keep-sinks", "4", "--keep-recent", "128", "--head-dim", "64"]
                *options, last = CODECS[name]
                if options[-1] == "--policy":
                    with open(os.path.join(tmp, "policy.toml"), "w", encoding="utf-8") as f:
                        f.write(last)
                    last = f.name
                subprocess.run(compress + options + [last], **quiet)
                subprocess.run([args.tersa, "decompress", packed, "-o", back, "-f"], **quiet)
                logits = judge(back)
                row = {"codec": name, "text": os.path.basename(path), "file": os.path.getsize(state), "packed": os.path.getsize(packed)}
                if logits is None or (name == "lossless" and not np.array_equal(logits, reference)):
                    failures += 1
                    print(f"{name}: {'refused' if logits is None else 'logits differ'}", flush=True)
                    continue
                d = nll(logits, targets) - ref_nll
                row |= {"nll": float(ref_nll.mean()), "d_nll": d.tolist(), "kl": float(kl(reference, logits).mean())}
                rows[name].append(row)
                print(f"{row['text']:24} {name:10} {row['file'] / row['packed']:6.2f}x  dNLL {d.mean():+.4f} +/- {d.std() / len(d) ** .5:.4f}"
                      f"  KL {row['kl']:.5f}", flush=True)
    print(f"\n{'codec':10} {'ratio':>6} {'dNLL':>9} {'s.e.':>7} {'perplexity':>10} {'KL':>9}   over {len(args.texts)} texts")
    for name, parts in rows.items():
        if not parts:
            continue
        d = np.concatenate([p["d_nll"] for p in parts])
        ratio = sum(p["file"] for p in parts) / sum(p["packed"] for p in parts)
        print(f"{name:10} {ratio:6.2f} {d.mean():+9.4f} {d.std() / len(d) ** .5:7.4f} {100 * np.expm1(d.mean()):+9.2f}% {np.mean([p['kl'] for p in parts]):9.5f}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(rows, f)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
