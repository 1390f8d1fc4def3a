"""The unmodified llama.cpp, through the C API that llama-cpp-python 0.3.36 wraps."""
import ctypes
import os

import llama_cpp as L
import numpy as np

TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}
BATCH = 512


class Model:
    def __init__(self, path):
        L.llama_backend_init()
        self._quiet = L.llama_log_callback(lambda level, text, data: None)
        L.llama_log_set(self._quiet, None)
        params = L.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = L.llama_model_load_from_file(path.encode(), params)
        assert self.model, path
        self.vocab = L.llama_model_get_vocab(self.model)
        self.n_vocab = L.llama_vocab_n_tokens(self.vocab)
        self.n_layers = L.llama_model_n_layer(self.model)

    def tokens(self, text, bos=True, special=False):
        raw = text.encode()
        out = (L.llama_token * (len(raw) + 8))()
        n = L.llama_tokenize(self.vocab, raw, len(raw), out, len(out), bos, special)
        assert n >= 0, n
        return list(out[:n])

    def text(self, tokens):
        buf = ctypes.create_string_buffer(64)
        piece = lambda t: buf.raw[:L.llama_token_to_piece(self.vocab, t, buf, 64, 0, True)]
        return b"".join(map(piece, tokens)).decode(errors="replace")


class Context:
    """One sequence. `callback` and `user` go to llama.cpp's cb_eval as they are."""

    def __init__(self, model, n_ctx, cache_type="f16", threads=None, callback=None, user=None):
        params = L.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, BATCH, BATCH
        params.n_threads = params.n_threads_batch = threads or len(os.sched_getaffinity(0))
        params.swa_full = False  # so that sliding-window layers have the smaller cache
        params.flash_attn_type, params.type_k, params.type_v = 1, TYPES[cache_type], TYPES[cache_type]
        if callback:
            params.cb_eval = ctypes.cast(callback, L.llama_cpp.ggml_backend_sched_eval_callback)
            params.cb_eval_user_data = user
        self.model = model
        self.ctx = L.llama_init_from_model(model.model, params)
        assert self.ctx
        self.n = 0

    def decode(self, tokens, logits="none", batch=BATCH):
        """Appends tokens. Yields logits `[n][vocab]` batch by batch ("all"), gives those of the last token ("last") or None."""
        rows = []
        for first in range(0, len(tokens), batch):
            part = tokens[first:first + batch]
            b = L.llama_batch_init(len(part), 0, 1)
            b.n_tokens = len(part)
            for j, token in enumerate(part):
                b.token[j], b.pos[j], b.n_seq_id[j], b.seq_id[j][0] = token, self.n + j, 1, 0
                b.logits[j] = logits == "all" or (logits == "last" and first + j + 1 == len(tokens))
            code = L.llama_decode(self.ctx, b)
            L.llama_batch_free(b)
            assert code == 0, code
            self.n += len(part)
            if logits == "all":
                rows.append(np.ctypeslib.as_array(L.llama_get_logits(self.ctx), (len(part), self.model.n_vocab)).copy())
        if logits == "all":
            return np.concatenate(rows)
        if logits == "last":
            return np.ctypeslib.as_array(L.llama_get_logits_ith(self.ctx, -1), (self.model.n_vocab,)).copy()
        return None

    def truncate(self, n):
        """Forgets all tokens but the first `n`."""
        assert L.llama_memory_seq_rm(L.llama_get_memory(self.ctx), 0, n, -1)
        self.n = n

    def save(self, path, tokens):
        array = (L.llama_token * len(tokens))(*tokens)
        assert L.llama_state_seq_save_file(self.ctx, path.encode(), 0, array, len(tokens)) > 0

    def load(self, path, n):
        """Whether llama.cpp took a file of `n` tokens."""
        array, count = (L.llama_token * n)(), ctypes.c_size_t(0)
        used = L.llama_state_seq_load_file(self.ctx, path.encode(), 0, array, n, ctypes.byref(count))
        self.n = n
        return used > 0 and count.value == n

    def close(self):
        L.llama_free(self.ctx)


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def nll(logits, targets):
    """Negative log-likelihood of each target, in nats, without a copy of all logits in f64."""
    out = np.empty(len(targets))
    for i in range(0, len(targets), 128):
        part = log_softmax(logits[i:i + 128])
        out[i:i + 128] = -part[np.arange(len(part)), targets[i:i + 128]]
    return out


def kl(reference, logits):
    """Divergence of each row's distribution from the reference's, in nats."""
    out = np.empty(len(reference))
    for i in range(0, len(out), 128):
        p, q = log_softmax(reference[i:i + 128]), log_softmax(logits[i:i + 128])
        out[i:i + 128] = (np.exp(p) * (p - q)).sum(-1)
    return out
