#!/usr/bin/env python3
"""Makes ggml-blocks.txt: blocks quantized and dequantized by llama.cpp's own reference functions.

    pip install llama-cpp-python==0.3.36 numpy && python make_ggml_blocks.py > ggml-blocks.txt

A line is `type case input block decoded`: 32 f32, the block and 32 f32, as hex of their little-endian bytes.
Only cases whose result llama.cpp defines: scales within f16, reciprocals within f32.
"""
import ctypes
import glob
import os
import sys

import llama_cpp
import numpy as np

lib = ctypes.CDLL(glob.glob(os.path.join(os.path.dirname(llama_cpp.__file__), "lib", "libggml-base.so"))[0])
BLOCK_BYTES = {"q8_0": 34, "q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "iq4_nl": 18}
rng = np.random.default_rng(2)


def cases():
    normal = rng.standard_normal(32)
    yield "zeros", np.zeros(32)
    yield "one_value", np.full(32, 0.7)
    yield "normal", normal
    yield "negative_max", np.where(np.arange(32) == 17, -5.0, normal)
    yield "positive_max", np.where(np.arange(32) == 3, 5.0, normal)
    yield "tied_max_minus_first", np.where(np.arange(32) == 2, -4, np.where(np.arange(32) == 30, 4, normal / 4))
    yield "tied_max_plus_first", np.where(np.arange(32) == 2, 4, np.where(np.arange(32) == 30, -4, normal / 4))
    yield "huge", normal * 2e4
    yield "tiny", normal * 1e-6
    yield "scale_subnormal_in_f16", normal * 1e-7
    yield "scale_zero_in_f16", normal * 1e-20
    yield "halves", (np.arange(32) - 16) / 2
    yield "ties_of_q8_0", (np.arange(32) * 8 - 127) / 2 * (127 / 63.5)
    yield "positive", np.abs(normal) + 3
    yield "negative", -np.abs(normal) - 3
    yield "outlier", np.where(np.arange(32) == 9, 1000.0, normal)
    yield "single", np.where(np.arange(32) == 31, -0.25, 0.0)
    for i in range(12):
        yield f"random{i}", rng.standard_normal(32) * 10.0 ** rng.uniform(-3, 3)


for name, x in [(n, np.asarray(x, dtype="<f4")) for n, x in cases()]:
    for kind, size in BLOCK_BYTES.items():
        if kind == "iq4_nl" and abs(x).max() < 1e-15:
            continue  # llama.cpp counts it as zeros and leaves the codes uninitialized
        block, back = np.zeros(size, "u1"), np.zeros(32, "<f4")
        getattr(lib, f"quantize_row_{kind}_ref")(x.ctypes.data_as(ctypes.c_void_p), block.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(32))
        getattr(lib, f"dequantize_row_{kind}")(block.ctypes.data_as(ctypes.c_void_p), back.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(32))
        assert np.isfinite(back).all(), (kind, name)
        sys.stdout.write(f"{kind} {name} {x.tobytes().hex()} {block.tobytes().hex()} {back.tobytes().hex()}\n")
