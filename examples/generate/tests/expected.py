"""Greedy tokens of llama.cpp for the prompts of the tests: what dense attention has to agree with.

usage: expected.py MODEL.gguf > expected.json      (needs llama-cpp-python==0.3.36)

`margins` are how far the likeliest token's logit lies above the second's.
"""
import json
import sys

import numpy as np
from llama_cpp import Llama

PROMPTS = {
    "fact": "The capital of France is",
    "chat": "<|im_start|>user\nName the planets of the solar system, from the sun outwards.<|im_end|>\n"
            "<|im_start|>assistant\n",
    "count": "".join(f"{n} and {n} make {2 * n}\n" for n in range(11, 31)),
    "alphabet": "a b c d e f g h i j k l m n o p q r s t u v w x y z\n" * 3 + "a b c d e",
}


def main():
    model = Llama(sys.argv[1], n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)
    cases = []
    for name, prompt in PROMPTS.items():
        model.reset()
        pending = prompt_tokens = model.tokenize(prompt.encode(), add_bos=False, special=True)
        tokens, margins = [], []
        for _ in range(48):
            model.eval(pending)
            logits = np.ctypeslib.as_array(model._ctx.get_logits(), shape=(model.n_vocab(),))
            second, first = np.partition(logits, -2)[-2:]
            tokens.append(int(np.argmax(logits)))
            margins.append(round(float(first - second), 3))
            pending = tokens[-1:]
        text = model.detokenize(tokens, special=True).decode(errors="replace")
        cases.append({"name": name, "prompt": prompt, "prompt_tokens": prompt_tokens, "tokens": tokens,
                      "margins": margins, "text": text})
    print("[\n" + ",\n".join(" " + json.dumps(case) for case in cases) + "\n]")


main()
