"""Tersa in the place of llama.cpp's attention: the switches of attention.cpp, built as a shared library."""
import ctypes
from dataclasses import dataclass

WAYS = {"llama": 0, "dense": 1, "exact": 2}
PRESETS = {"default": 0, "paper-2x6": 1, "paper-4x8": 2}


@dataclass(frozen=True)
class Way:
    """How attention is computed. "llama": as llama.cpp does; "dense": ours; "exact": over the best by true score; a preset: over the best by its codes."""
    name: str
    budget: float = 0.0

    def __str__(self):
        return f"{self.name} {100 * self.budget:g}%" if self.budget else self.name

    @classmethod
    def parse(cls, text):
        name, _, budget = text.partition(":")
        return cls(name, float(budget or 0))


class Hook:
    def __init__(self, library, n_ctx):
        self.lib = ctypes.CDLL(library)
        pointer = ctypes.c_void_p
        self.lib.attention_create.restype = pointer
        self.lib.attention_create.argtypes = [ctypes.c_uint32]
        self.lib.attention_set.argtypes = [pointer, ctypes.c_int, ctypes.c_uint32, ctypes.c_double, ctypes.c_size_t, ctypes.c_int64]
        self.lib.attention_forget.argtypes = self.lib.attention_destroy.argtypes = [pointer]
        self.user = self.lib.attention_create(n_ctx)
        self.callback = self.lib.attention_eval
        self.last = None

    def prompt(self):
        """From here on a prompt is decoded: by llama.cpp, while queries are noted."""
        self.lib.attention_set(self.user, WAYS["dense"], 0, 0.0, 0, 0)

    def use(self, way, min_context=0):
        """From here on tokens attend this way, also those of large batches. Indexes of another preset are made anew."""
        if way.name != self.last:
            self.lib.attention_forget(self.user)
        self.last = way.name
        preset = PRESETS.get(way.name, 0)
        self.lib.attention_set(self.user, WAYS.get(way.name, 3), preset, way.budget, min_context, 1 << 20)

    def close(self):
        self.lib.attention_destroy(self.user)
