#!/usr/bin/env python3
"""The real llama.cpp judges `tersa` on its own state files.

A prompt is decoded, the sequence's state saved by llama.cpp, sent through `tersa compress` and `tersa decompress`,
loaded into a fresh context by llama.cpp, and the text goes on: mean negative log-likelihood of the next tokens and
mean KL divergence from the distribution that the untouched state gives.

Fails when: llama.cpp refuses a file; an exact codec does not give the file back byte for byte (and with it the same
logits to the last bit); a lossy codec moves the likelihood by more than its bound in BOUNDS.

usage: restore.py TERSA MODEL.gguf [--json OUT]      needs: llama-cpp-python==0.3.36 numpy
"""
import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile

import llama_cpp as L
import numpy as np

PROMPT, SCORED = 1536, 256
TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}
EXACT = ("raw", "lossless")
# codec -> most that the mean negative log-likelihood may move, in nats. About three times what was seen: a wrong
# tensor (rotated when it should not be, heads swapped, tokens shifted) moves it by whole nats.
BOUNDS = {"q8_0": 0.02, "q4_0": 0.10, "had+q4_0": 0.08, "had+lm8": 0.02, "had+lm5": 0.03, "had+lm4": 0.06, "mean+had+lm4+ls": 0.06,
          "had+lm3": 0.20, "had+lm2": 1.0, "kivi4g32": 0.06, "pq:32x8": 0.60}


class Model:
    def __init__(self, path):
        L.llama_backend_init()
        self.quiet = L.llama_log_callback(lambda level, text, data: None)
        L.llama_log_set(self.quiet, None)
        params = L.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = L.llama_model_load_from_file(path.encode(), params)
        assert self.model, path
        self.vocab = L.llama_model_get_vocab(self.model)
        self.n_vocab = L.llama_vocab_n_tokens(self.vocab)

    def tokens(self, text):
        raw = text.encode()
        out = (L.llama_token * (len(raw) + 8))()
        n = L.llama_tokenize(self.vocab, raw, len(raw), out, len(out), True, False)
        assert n >= PROMPT + SCORED + 1, n
        return list(out[:PROMPT + SCORED + 1])

    def context(self, cache_type):
        params = L.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = PROMPT + SCORED + 64, 512, 512
        params.n_threads = params.n_threads_batch = len(os.sched_getaffinity(0))
        params.flash_attn_type, params.type_k, params.type_v = 1, cache_type, cache_type
        ctx = L.llama_init_from_model(self.model, params)
        assert ctx
        return ctx

    def decode(self, ctx, tokens, start, logits):
        rows = []
        for first in range(0, len(tokens), 512):
            part = tokens[first:first + 512]
            batch = L.llama_batch_init(len(part), 0, 1)
            batch.n_tokens = len(part)
            for j, token in enumerate(part):
                batch.token[j], batch.pos[j], batch.n_seq_id[j], batch.logits[j] = token, start + first + j, 1, logits
                batch.seq_id[j][0] = 0
            assert L.llama_decode(ctx, batch) == 0
            if logits:
                p = L.llama_get_logits(ctx)
                rows.append(np.ctypeslib.as_array(p, (len(part), self.n_vocab)).copy())
            L.llama_batch_free(batch)
        return np.concatenate(rows) if logits else None

    def save(self, ctx, path, tokens):
        arr = (L.llama_token * len(tokens))(*tokens)
        assert L.llama_state_seq_save_file(ctx, path.encode(), 0, arr, len(tokens)) > 0

    def load(self, ctx, path, n):
        arr, count = (L.llama_token * n)(), ctypes.c_size_t(0)
        used = L.llama_state_seq_load_file(ctx, path.encode(), 0, arr, n, ctypes.byref(count))
        return used > 0 and count.value == n


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("tersa")
    ap.add_argument("model")
    ap.add_argument("--json")
    args = ap.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    model = Model(args.model)
    tokens = model.tokens(open(os.path.join(here, "text.txt"), encoding="utf-8").read())
    prompt, nxt = tokens[:PROMPT], tokens[PROMPT:PROMPT + SCORED]
    targets = np.array(tokens[PROMPT + 1:PROMPT + SCORED + 1])
    failures, rows = 0, []
    print(f"{'cache':6} {'codec':18} {'file':>10} {'packed':>10} {'ratio':>6} {'dNLL':>9} {'KL':>9}")
    with tempfile.TemporaryDirectory() as tmp:
        for name, cache_type in TYPES.items():
            ctx = model.context(cache_type)
            model.decode(ctx, prompt, 0, False)
            state = os.path.join(tmp, name + ".state")
            model.save(ctx, state, prompt)
            L.llama_free(ctx)

            def judge(path):
                ctx = model.context(cache_type)
                if not model.load(ctx, path, PROMPT):
                    L.llama_free(ctx)
                    return None
                logits = model.decode(ctx, nxt, PROMPT, True)
                L.llama_free(ctx)
                return logits

            ref_logits = judge(state)
            ref = log_softmax(ref_logits)
            ref_nll = -ref[np.arange(SCORED), targets].mean()
            for codec in EXACT + tuple(BOUNDS):
                packed, back = os.path.join(tmp, "x.tersa"), os.path.join(tmp, "back.state")
                run = lambda *a: subprocess.run([args.tersa, *a], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                run("compress", state, "-o", packed, "-f", "--codec", codec, "--head-dim", "64")
                run("decompress", packed, "-o", back, "-f")
                same = open(state, "rb").read() == open(back, "rb").read()
                logits = judge(back)
                row = {"cache": name, "codec": codec, "file": os.path.getsize(state), "packed": os.path.getsize(packed)}
                rows.append(row)
                if logits is None:
                    verdict = "REFUSED by llama.cpp"
                else:
                    lp = log_softmax(logits)
                    row["d_nll"] = float(-lp[np.arange(SCORED), targets].mean() - ref_nll)
                    row["kl"] = float((np.exp(ref) * (ref - lp)).sum(-1).mean())
                    if codec in EXACT:
                        verdict = "" if same and np.array_equal(logits, ref_logits) else "NOT BYTE FOR BYTE"
                    else:
                        verdict = "" if abs(row["d_nll"]) <= BOUNDS[codec] else f"OVER THE BOUND {BOUNDS[codec]}"
                row["verdict"] = verdict or "ok"
                failures += bool(verdict)
                print(f"{name:6} {codec:18} {row['file']:10} {row['packed']:10} {row['file'] / row['packed']:6.2f} "
                      f"{row.get('d_nll', float('nan')):9.4f} {row.get('kl', float('nan')):9.5f} {verdict}", flush=True)
    if args.json:
        json.dump(rows, open(args.json, "w"), indent=1)
    n = len(rows)
    print(f"{n - failures} passed, {failures} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
