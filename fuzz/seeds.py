#!/usr/bin/env python3
"""Writes the fuzz corpus's first seeds: small valid files of every kind, from Python's standard library alone.

usage: fuzz/seeds.py [TERSA]      TERSA: the built command, for the container seeds
"""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
RNG = random.Random(7)


def put(target, name, data):
    folder = os.path.join(HERE, "corpus", target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)


def f16(n):
    return b"".join(struct.pack("<e", RNG.gauss(0, 1)) for _ in range(n))


def safetensors(tensors, meta=None):
    header, data = {}, b""
    if meta:
        header["__metadata__"] = meta
    for name, dtype, shape, raw in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def npy(shape, raw, descr="<f2", fortran=False, version=1):
    head = repr({"descr": descr, "fortran_order": fortran, "shape": tuple(shape)}).encode()
    size = 10 if version == 1 else 12
    head += b" " * (-(size + len(head) + 1) % 64) + b"\n"
    length = struct.pack("<H", len(head)) if version == 1 else struct.pack("<I", len(head))
    return b"\x93NUMPY" + bytes([version, 0]) + length + head + raw


def dump(tokens=3, heads=2, dim=32, layers=(0, 1), queries=True, layout="htd"):
    n = tokens * heads * dim
    shape = {"htd": [heads, tokens, dim], "thd": [tokens, heads, dim]}[layout]
    tensors = []
    for layer in layers:
        tensors += [(f"{kind}.L{layer}", "F16", shape, f16(n)) for kind in "kv"]
        if queries:
            tensors.append((f"q.L{layer}", "F16", [heads * 2, 2, dim], f16(heads * 4 * dim)))
    words = {"htd": "k,v: [kv_head, token, dim]; q: [q_head, query, dim]", "thd": "k,v: [token, kv_head, dim]"}
    return safetensors(tensors, {"layout": words[layout], "kv_heads": str(heads), "head_dim": str(dim)})


def f16_row():
    return 1, f16(64)


def q8_0_row():
    return 8, b"".join(f16(1) + RNG.randbytes(32) for _ in range(2))


def llama(version, row=f16_row, v_trans=False, arch=b"", cells=2, layers=2):
    """A sequence file, or with `arch` a session file, whose rows have 64 elements."""
    magic = 0x6767736E if arch else 0x67677371
    out = struct.pack("<III", magic, version, cells) + struct.pack(f"<{cells}i", *range(5, 5 + cells))
    if arch:
        out += struct.pack("<I", len(arch)) + arch
    out += struct.pack("<II", 1, cells)
    for pos in range(cells):
        out += struct.pack("<iI", pos, bool(arch)) + (struct.pack("<i", 0) if arch else b"")
    out += struct.pack("<II", v_trans, layers)
    if version in (4, 11):
        out += struct.pack("<II", 0, 0)
    for v in (False, True):
        for _ in range(layers):
            rows = [row() for _ in range(cells)]
            head = struct.pack("<iII", rows[0][0], 2, 64) if v and v_trans else struct.pack("<iQ", rows[0][0], len(rows[0][1]))
            out += head + b"".join(data for _, data in rows)
    return out


def main():
    for i, text in enumerate(["raw", "lossless", "had+q4_0", "mean+had+lm3+unbiased", "k=had+lm4,v=int2t32",
                              "kivi4g32", "pq:16x4", "pq:99999999999x4", "had+had+lm4", "int3c64", "k=,v="]):
        put("spec", f"{i:02}", text.encode())

    put("safetensors", "htd", dump())
    put("safetensors", "thd", dump(layout="thd", queries=False))
    put("safetensors", "empty", safetensors([]))
    put("safetensors", "zero-tokens", dump(tokens=0, queries=False))
    mlx = []
    for layer in range(2):
        mlx += [(f"{layer}.{i}", "F16", [1, 2, 3, 32], f16(192)) for i in range(2)]
    put("safetensors", "mlx", safetensors(mlx, {"0.0": "KVCache", "0.1": "KVCache", "2.0": "3", "2.1": "3"}))
    put("safetensors", "vllm", safetensors([("kv_cache", "F16", [2, 3, 64], f16(384))]))
    put("safetensors", "cut", dump()[:-5])

    put("npy", "l2htd", npy([2, 2, 2, 3, 8], f16(192)))
    put("npy", "v2", npy([2, 2, 3, 2, 8], f16(192), version=2))
    put("npy", "fortran", npy([2, 2, 3, 8], f16(96), fortran=True))
    put("npy", "f4", npy([2, 2, 3, 8], RNG.randbytes(96 * 4), descr="<f4"))

    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        with tempfile.TemporaryFile() as f:
            with zipfile.ZipFile(f, "w", method) as z:
                for layer in range(2):
                    for kind in "kv":
                        info = zipfile.ZipInfo(f"{kind}.L{layer}.npy")
                        info.compress_type = method
                        z.writestr(info, npy([2, 3, 8], f16(48)))
            f.seek(0)
            put("npz", name, f.read())

    put("llama", "seq3-f16", llama(3))
    put("llama", "seq4-f16", llama(4))
    put("llama", "seq3-vtrans", llama(3, v_trans=True))
    put("llama", "seq3-q8_0", llama(3, row=q8_0_row))
    put("llama", "session10", llama(10, arch=b"llama"))
    put("llama", "session11", llama(11, arch=b"llama"))
    put("llama", "cut", llama(4)[:-7])

    # One seed for each codec of the catalog (numbers past its end wrap around) and a few shapes.
    for codec in range(28):
        for shape, rows in ((codec % 7, f16(256)), (7 + codec, RNG.randbytes(512))):
            put("round_trip", f"{codec:02}-{shape:02}", bytes([codec, shape, codec % 3]) + rows)
        put("tile", f"{codec:02}", bytes([codec, codec % 7, 4, codec % 2]) + RNG.randbytes(40))

    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as folder:
            source, packed = os.path.join(folder, "kv.safetensors"), os.path.join(folder, "kv.tersa")
            with open(source, "wb") as f:
                f.write(dump(tokens=5, heads=2, dim=32, layers=(0,), queries=False))
            for spec in ("raw", "lossless", "q8_0", "k=had+lm4,v=int4t32", "pq:4x4"):
                subprocess.run([sys.argv[1], "compress", source, "-o", packed, "-f", "-q", "--chunk", "4",
                                "--codec", spec, "--keep-sinks", "1"], check=True)
                with open(packed, "rb") as f:
                    put("container", spec.replace(":", "-").replace(",", "-").replace("=", "-"), f.read())


main()
