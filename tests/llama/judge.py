#!/usr/bin/env python3
"""The quick part: Tersa as llama.cpp's attention, judged from outside. Under a minute.

1. Every layer's attention output of a decoded token, as the rest of the graph reads it (`kqv_out`, read by the eval callback), against an
   f64 recomputation from llama.cpp's own queries, keys, values and mask: over all tokens, or over the best by true score.
2. Tokens decoded one by one and as a batch; switched off again, logits are llama.cpp's to the bit.
3. A passkey is found by llama.cpp, by the best by true score and by the default index, at 3 % of the tokens.

usage: judge.py LIBRARY MODEL.gguf      needs: llama-cpp-python==0.3.36 numpy
"""
import ctypes
import os
import sys

import llama_cpp as L
import numpy as np

from engine import Context, Model, kl
from hook import Hook, Way

PROMPT, KEY = 1500, "83927"
NEEDLE = f"\n\nThe secret passkey of the vault is {KEY}. Remember it. {KEY} is the passkey.\n\n"
CHAT = ("<|im_start|>user\n", "\n\nWhat is the secret passkey of the vault?<|im_end|>\n<|im_start|>assistant\nThe secret passkey of the vault is")
SINKS, WINDOW = 32, 128


class Tensor(ctypes.Structure):
    """ggml 0.25's tensor header on 64-bit machines."""
    _fields_ = [("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4), ("nb", ctypes.c_size_t * 4),
                ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16), ("flags", ctypes.c_int32), ("src", ctypes.c_void_p * 10),
                ("view_src", ctypes.c_void_p), ("view_offs", ctypes.c_size_t), ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64)]


def tensor(pointer):
    return ctypes.cast(pointer, ctypes.POINTER(Tensor)).contents


def array(pointer):
    """A tensor's elements, by its strides, slowest axis first."""
    t = tensor(pointer)
    shape, strides = tuple(t.ne)[::-1], tuple(t.nb)[::-1]
    dtype = np.dtype({0: np.float32, 1: np.float16}[t.type])
    extent = sum((n - 1) * s for n, s in zip(shape, strides)) + dtype.itemsize
    return np.ndarray(shape, dtype, (ctypes.c_uint8 * extent).from_address(t.data), strides=strides)


def expected(node, budget):
    """Attention of the one token of a batch, `[heads][dim]`: over everything, or over sinks, window and the best by true score."""
    q, k, v, mask = (array(node.src[i])[0].astype(np.float64) for i in range(4))
    n = int(np.isfinite(mask[0, 0]).sum())
    scale = 1 / np.sqrt(q.shape[-1])
    group = len(q) // len(k)
    out = []
    for h in range(len(k)):
        s = q[h * group:(h + 1) * group, 0] @ k[h, :n].T * scale
        p = np.exp(s - s.max(1, keepdims=True))
        keep = np.ones(n, bool)
        if budget:
            end = n - 1 - WINDOW
            middle = p[:, SINKS:end]
            weight = (middle / middle.sum(1, keepdims=True)).sum(0)
            keep[SINKS:end] = False
            keep[SINKS + np.argsort(-weight, kind="stable")[:int(budget * (n - SINKS))]] = True
        p = p * keep
        out.append(p @ v[h, :n] / p.sum(1, keepdims=True))
    return np.concatenate(out)


class Watch:
    """An eval callback that lets the library act first and then looks at each layer's attention output."""

    def __init__(self, hook):
        self.budget, self.errors, self.failure = None, [], None
        act = hook.lib.attention_eval
        act.argtypes, act.restype = [ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p], ctypes.c_bool

        def see(pointer, ask, _):
            if not tensor(pointer).name.startswith(b"kqv_out-") or self.budget is None:
                return act(pointer, ask, hook.user)
            if not ask:
                try:
                    self.look(pointer)
                except Exception as error:  # must not pass through C
                    self.failure = error
            return True
        self.callback = L.llama_cpp.ggml_backend_sched_eval_callback(see)

    def look(self, pointer):
        got = array(pointer).reshape(-1).astype(np.float64)
        want = expected(tensor(tensor(pointer).view_src), self.budget).reshape(-1)
        self.errors.append(np.linalg.norm(got - want) / np.linalg.norm(want))


def check(what, value, bound):
    print(f"{'ok' if value <= bound else 'FAILED':6} {what}: {value:.2g} (at most {bound:g})", flush=True)
    return value <= bound


def main():
    library, path = sys.argv[1:3]
    model = Model(path)
    before, after = model.tokens(CHAT[0], special=True), model.tokens(CHAT[1], bos=False, special=True)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "text.txt"), encoding="utf-8") as f:
        text = model.tokens(f.read(), bos=False)
    needle = model.tokens(NEEDLE, bos=False)
    prompt = (before + text[:300] + needle + text[300:])[:PROMPT]
    hook = Hook(library, 2048)
    watch = Watch(hook)
    ctx = Context(model, 2048, threads=1, callback=watch.callback, user=None)
    plain = Context(model, 2048, threads=1)
    plain.decode(prompt)
    hook.prompt()
    ctx.decode(prompt)
    passed = True

    for way, bound in [(Way("llama"), 2e-2), (Way("dense"), 1e-5), (Way("exact", 0.1), 1e-5), (Way("default", 0.1), 0.05), (Way("default", 1.0), 1e-5)]:
        ctx.truncate(PROMPT)
        hook.use(way)
        watch.budget, watch.errors = way.budget if way.budget < 1 else 0.0, []
        ctx.decode(after[:1], "last")
        watch.budget = None
        if watch.failure:
            raise watch.failure
        assert len(watch.errors) == model.n_layers, len(watch.errors)
        # llama.cpp adds up in f16, and the default's choice is not quite the best: bounds for the mean over layers.
        error = np.mean(watch.errors) if way in (Way("llama"), Way("default", 0.1)) else max(watch.errors)
        passed &= check(f"attention output, {way}", error, bound)

    for way in [Way("dense"), Way("default", 0.1)]:
        hook.use(way)
        ctx.truncate(PROMPT)
        batch = ctx.decode(after, "all")
        ctx.truncate(PROMPT)
        single = np.concatenate([ctx.decode([token], "all") for token in after])
        passed &= check(f"divergence of a batch from single tokens, {way}, nats", kl(single, batch).mean(), 0.02)

    hook.use(Way("llama"))
    ctx.truncate(PROMPT)
    passed &= check("logits switched off, difference", float(np.abs(ctx.decode(after, "last") - plain.decode(after, "last")).max()), 0.0)

    for way in [Way("llama"), Way("dense"), Way("exact", 0.03), Way("default", 0.03)]:
        hook.use(way)
        ctx.truncate(PROMPT)
        answer = [int(np.argmax(ctx.decode(after, "last")))]
        while len(answer) < 8:
            answer.append(int(np.argmax(ctx.decode(answer[-1:], "last"))))
        found = KEY in model.text(answer)
        print(f"{'ok' if found else 'FAILED':6} passkey, {way}: {model.text(answer)!r}", flush=True)
        passed &= found
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
