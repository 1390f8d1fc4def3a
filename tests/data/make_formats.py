"""Writes the same small cache in every format that Tersa reads, into `formats/`.

usage: make_formats.py            (needs numpy and safetensors; run in this folder)

The numbers are a corner of smollm2-135m-1k-sample.safetensors: layers 1 and 6, 3 heads, 6 tokens, 16 of 64 elements.
They are called layers 0 and 1 in the files. mlx and vLLM themselves are not needed: their files are safetensors whose
names, shapes and metadata are written here as those programs write them.
"""
import os
import numpy as np
from safetensors.numpy import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "formats")
T, D = 6, 16

sample = load_file(os.path.join(HERE, "smollm2-135m-1k-sample.safetensors"))
K = [np.ascontiguousarray(sample[f"k.L{i}"][:, :T, :D]) for i in (1, 6)]  # [H, T, D]
V = [np.ascontiguousarray(sample[f"v.L{i}"][:, :T, :D]) for i in (1, 6)]
PAIRS = list(enumerate(zip(K, V)))
THD = (1, 0, 2)


def path(*names):
    p = os.path.join(OUT, *names)
    os.makedirs(os.path.dirname(p), exist_ok=True)
    return p


def save(name, tensors, metadata=None):
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path(name), metadata)


def both(k_name, v_name, change):
    out = {}
    for i, (k, v) in PAIRS:
        out[k_name.format(i=i)], out[v_name.format(i=i)] = change(k), change(v)
    return out


# Hugging Face style, [batch, heads, tokens, dim].
save("past-key-values.safetensors", both("past_key_values.{i}.key", "past_key_values.{i}.value", lambda a: a[None]))
# [batch, tokens, heads, dim] under names that say nothing about it.
save("layers-bthd.safetensors", both("layers.{i}.keys", "layers.{i}.values", lambda a: a.transpose(THD)[None]))
# Two sequences: the second one is the first with its tokens reversed.
save("batch-of-two.safetensors", both("k_{i}", "v_{i}", lambda a: np.stack([a, a[:, ::-1]])))
# f32, heads side by side.
save("flat-f32.safetensors", both("key_cache.{i}", "value_cache.{i}",
                                  lambda a: a.transpose(THD).reshape(T, -1).astype(np.float32)))
# As many tokens as heads: nothing but an option can tell.
save("ambiguous.safetensors", both("layer_{i}_key", "layer_{i}_value", lambda a: a[:, :3]))

# mlx-lm: save_prompt_cache flattens a list of states, and metadata of three lists.
mlx = both("{i}.0", "{i}.1", lambda a: a[None])
save("mlx.safetensors", mlx, {"0.model": "SmolLM2", "1.0": "KVCache", "1.1": "KVCache"})
save("mlx-older.safetensors", mlx, {"0.0": "", "0.1": "", "1.model": "SmolLM2", "2.0": "KVCache", "2.1": "KVCache"})
save("mlx-rotating.safetensors", mlx, {"0.1.0": "0", "0.1.1": "6", "2.0": "KVCache", "2.1": "RotatingKVCache"})
packed = {f"{i}.{kv}.{j}": np.zeros((1, 3, T, 4), np.uint32 if j == 0 else np.float16)
          for i in range(2) for kv in range(2) for j in range(3)}
save("mlx-quantized.safetensors", packed, {"1.0": "QuantizedKVCache", "1.1": "QuantizedKVCache"})

# vLLM's example connector: a folder, one tensor in each layer's file, [T, H, 2D]; older: [2, T, H*D]; latent: [T, C].
for i, (k, v) in PAIRS:
    name = f"model.layers.{i}.self_attn.attn.safetensors"
    k, v = k.transpose(THD), v.transpose(THD)
    save(os.path.join("vllm", name), {"kv_cache": np.concatenate([k, v], axis=2)})
    save(os.path.join("vllm-older", name), {"kv_cache": np.stack([k.reshape(T, -1), v.reshape(T, -1)])})
    save(os.path.join("vllm-latent", name), {"kv_cache": k.reshape(T, -1)})

# numpy.
whole = np.stack([np.stack(kv) for _, kv in PAIRS])  # [L, 2, H, T, D]
np.save(path("l2htd.npy"), np.concatenate([whole, whole[:1]]))
np.save(path("2lhtd.npy"), whole.transpose(1, 0, 2, 3, 4))
np.save(path("2lt-hd.npy"), whole.transpose(1, 0, 3, 2, 4).reshape(2, 2, T, -1))
np.save(path("fortran.npy"), np.asfortranarray(whole.transpose(1, 0, 2, 3, 4)))
arrays = both("k_{i}", "v_{i}", lambda a: a[None])
np.savez(path("stored.npz"), tokens=np.arange(T, dtype=np.int32), **arrays)
np.savez_compressed(path("deflated.npz"), tokens=np.arange(T, dtype=np.int32), **arrays)

# What all of them hold.
save("reference.safetensors", both("k.L{i}", "v.L{i}", lambda a: a), {"layout": "htd", "kv_heads": "3"})
