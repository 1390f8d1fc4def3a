#!/usr/bin/env python3
"""Tersa beside faiss, torch and numpy on the same tasks, one thread each, taking turns.

Our side is the program `core/benches/peers.rs`, which waits in a process of its own and answers one task at a time.
A round asks it, then runs each peer; of all rounds the fastest time counts on both sides (cold attention: the least first
quartile). Rows are key-like: a slow walk over the tokens, 32 clusters, noise, a few loud channels. Training, encoding and
scanning use the same rows on both sides, each with codebooks of its own; selection uses the same scores.

Prints a Markdown table: our time, the peer's, how many times longer the peer takes, and what the project asks of
itself ("must / aim", a ratio unless it says ms or us).

usage: peers.py [--rounds N] [--only WORD...]      needs: cargo numpy faiss-cpu torch
"""
import argparse
import math
import os
import subprocess
import tempfile
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

faiss.omp_set_num_threads(1)
torch.set_num_threads(1)

D = 128
TOKENS, PROMPT = 131072, 32768
COLD_BYTES = 1600 << 20
SECONDS = 0.25


class Ours:
    """The program that runs our side."""

    def __init__(self):
        command = ["cargo", "bench", "-q", "-p", "tersa-core", "--bench", "peers"]
        root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
        self.process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, task):
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        assert answer, f"our side ended at `{task}`"
        return [float(x) for x in answer]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def times(run):
    """Microseconds of some runs, ascending."""
    all_times, begun = [], time.perf_counter()
    while len(all_times) < 3 or time.perf_counter() - begun < SECONDS:
        start = time.perf_counter()
        run()
        all_times.append((time.perf_counter() - start) * 1e6)
    return sorted(all_times)


def fastest(run):
    return times(run)[0]


def first_quartile(run):
    all_times = times(run)
    return all_times[len(all_times) // 4]


def key_like(n, seed):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    walk = np.cumsum(0.05 * normal(n, D), axis=0)
    rows = 0.5 * (walk - walk.mean(axis=0)) + normal(32, D)[rng.integers(0, 32, n)] + 0.7 * normal(n, D)
    rows[:, rng.choice(D, D // 32, replace=False)] *= 6
    return np.ascontiguousarray(rows)


class Data:
    """What both sides work on, in memory and as raw files."""

    def __init__(self, folder):
        self.folder = folder
        self.kept = {}

    def get(self, name, make):
        if name not in self.kept:
            array = make()
            array.tofile(self.path(name))
            self.kept[name] = array
        return self.kept[name]

    def path(self, name):
        return os.path.join(self.folder, name)

    def rows(self, n):
        return self.get(f"rows{n}", lambda: key_like(n, 1))

    def query(self):
        return self.get("query", lambda: key_like(64, 9)[:1])

    def scores(self, kind):
        def make():
            normal = np.random.default_rng(2).standard_normal(TOKENS, dtype=np.float32)
            return normal if kind == "f32" else np.clip(normal * 8000 + 32768, 0, 65535).astype(np.uint16)

        return self.get("scores-" + kind, make)

    def layer(self, heads):
        return self.get("layer", lambda: np.concatenate([key_like(PROMPT, 10 + h) for h in range(heads)]))


class Row:
    """A line of the table: our task, who else does it, and what is asked."""

    def __init__(self, name, task, peers, asked):
        self.name, self.task, self.peers, self.asked = name, task, peers, asked


def quantizer(m, nbits, iterations):
    pq = faiss.ProductQuantizer(D, m, nbits)
    pq.cp.niter, pq.cp.min_points_per_centroid, pq.cp.max_points_per_centroid = iterations, 1, 1 << 30
    return pq


def train_row(data, m, nbits, asked):
    rows = data.rows(PROMPT)

    def run():
        run.pq = quantizer(m, nbits, 8)
        run.pq.train(rows)

    def error():
        back = run.pq.decode(run.pq.compute_codes(rows))
        return float(((rows - back) ** 2).sum() / ((rows - rows.mean(0)) ** 2).sum())

    task = f"train {data.path(f'rows{PROMPT}')} {D} {m} {nbits} 8"
    return Row(f"k-means, {PROMPT} rows, 8 iterations, {m}x{nbits}", task, {"faiss": (fastest, run, error)}, asked)


def encode_row(data, m, nbits, n, asked):
    rows = data.rows(PROMPT)
    pq = quantizer(m, nbits, 4)
    pq.train(rows)
    some = rows[:n]
    task = f"encode {data.path(f'rows{PROMPT}')} {D} {m} {nbits} {n}"
    what = "one new token's codes" if n == 1 else f"encode {n} rows"
    return Row(f"{what}, {m}x{nbits}", task, {"faiss": (fastest, lambda: pq.compute_codes(some), None)}, asked)


def scan_row(data, m, nbits, k, rivals):
    rows, query = data.rows(TOKENS), data.query()
    peers, asked = {}, {}
    for kind, peer_m, peer_nbits, what in rivals:
        index = (faiss.IndexPQ if kind == "IndexPQ" else faiss.IndexPQFastScan)(D, peer_m, peer_nbits, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.niter = 4
        index.train(rows[:: TOKENS // PROMPT])
        index.add(rows)
        name = f"faiss {kind} {peer_m}x{peer_nbits}"
        peers[name] = (fastest, lambda index=index: index.search(query, k), None)
        asked[name] = what
    task = f"scan {data.path(f'rows{TOKENS}')} {data.path('query')} {D} {m} {nbits} {k}"
    top = "top fifth" if k == TOKENS // 5 else f"top {k}"
    return Row(f"scan {TOKENS} tokens, {top}, {m}x{nbits}", task, peers, asked)


def select_row(data, kind, asked):
    scores, k = data.scores(kind), TOKENS // 5
    peers = {"numpy argpartition": (fastest, lambda: np.argpartition(scores, TOKENS - k), None)}
    if kind == "f32":
        tensor = torch.from_numpy(scores)
        peers["torch topk, unsorted"] = (fastest, lambda: torch.topk(tensor, k, sorted=False), None)
    return Row(f"top fifth of {TOKENS} scores, {kind}", f"select {data.path('scores-' + kind)} {kind} {k}", peers, asked)


class ColdTensors:
    """Keys and values of many calls; each is met again only after all others."""

    def __init__(self, dtype):
        one = [torch.randn(TOKENS, D).to(dtype) for _ in range(2)]
        count = math.ceil(COLD_BYTES / (4 * TOKENS * D))
        self.all = [one] + [[x.clone() for x in one] for _ in range(count - 1)]
        self.at = 0

    def next(self):
        self.at += 1
        return self.all[self.at % len(self.all)]


def attend_row(cold, group, asked):
    def by_sdpa(dtype):
        q = torch.randn(1, group, 1, D).to(dtype)

        def run():
            k, v = cold[dtype].next()
            torch.nn.functional.scaled_dot_product_attention(q, k[None, None], v[None, None], enable_gqa=group > 1)

        return run

    def by_matmul(dtype):
        q = torch.randn(group, D).to(dtype)

        def run():
            k, v = cold[dtype].next()
            torch.softmax(q @ k.T / math.sqrt(D), -1) @ v

        return run

    peers = {
        "torch sdpa, f16": (first_quartile, by_sdpa(torch.float16), None),
        "torch matmul, bf16": (first_quartile, by_matmul(torch.bfloat16), None),
    }
    name = f"dense attention, {TOKENS} cold tokens, {group} head{'s' * (group > 1)}"
    return Row(name, f"attend {TOKENS} {D} {group}", peers, {name: asked for name in peers})


def layer_row(data):
    data.layer(8)
    # Ten iterations on 64 rows for each centroid, then two on all rows, then codes for all.
    task = f"layer {data.path('layer')} {D} 2 6 8 64 10 2"
    return Row(f"a layer: 8 heads of {PROMPT}, 2x6, two threads", task, {}, "270 / 135 ms")


def table(data):
    """Makes each line when its turn comes: some hold gigabytes."""
    fifth = TOKENS // 5
    yield "scan", lambda: scan_row(data, 2, 6, fifth, [("IndexPQ", 2, 6, "240 / 400"), ("FastScan", 2, 4, "22 / 38")])
    yield "scan", lambda: scan_row(data, 16, 8, fifth, [("IndexPQ", 16, 8, "48 / 80")])
    yield "scan", lambda: scan_row(data, 32, 4, fifth, [("FastScan", 32, 4, "14 / 20")])
    yield "scan", lambda: scan_row(data, 32, 4, 256, [("FastScan", 32, 4, "1 / 1.5")])
    yield "scan", lambda: scan_row(data, 2, 6, 256, [("IndexPQ", 2, 6, "")])
    yield "select", lambda: select_row(data, "u16", {"numpy argpartition": "5 / 9"})
    yield "select", lambda: select_row(data, "f32", {"numpy argpartition": "3 / 5", "torch topk, unsorted": "20 / 45"})
    yield "train", lambda: train_row(data, 2, 6, "3.2 / 6.2")
    yield "train", lambda: train_row(data, 16, 8, "1.5 / 3")
    yield "encode", lambda: encode_row(data, 2, 6, PROMPT, "4.2 / 6.5")
    yield "encode", lambda: encode_row(data, 16, 8, PROMPT, "")
    yield "encode", lambda: encode_row(data, 2, 6, 1, "0.5 / 0.2 us")
    yield "layer", lambda: layer_row(data)
    cold = {}

    def attend(group, asked):
        if not cold:
            cold.update({dtype: ColdTensors(dtype) for dtype in (torch.float16, torch.bfloat16)})
        return attend_row(cold, group, asked)

    yield "attend", lambda: attend(1, "")
    yield "attend", lambda: attend(8, "2.5 / 4")


def shown(us):
    return f"{us / 1e3:.1f} ms" if us >= 10_000 else f"{us:.0f} us" if us >= 100 else f"{us:.2f} us"


def compare(ours, row, rounds):
    """Turns of all; prints a line for each peer."""
    mine, theirs = math.inf, dict.fromkeys(row.peers, math.inf)
    more = []
    for _ in range(rounds):
        answer = ours.ask(row.task)
        mine, more = min(mine, answer[0]), answer[1:]
        for name, (measure, run, _) in row.peers.items():
            theirs[name] = min(theirs[name], measure(run))
    note = ""
    if not row.peers:
        print(f"| {row.name} | {shown(mine)} | | | {row.asked} | inertia {more[0]:.4f} of ten full iterations |", flush=True)
    for name, us in theirs.items():
        asked = row.asked if isinstance(row.asked, str) else row.asked.get(name, "")
        error = row.peers[name][2]
        if error and more:
            note = f"error {more[0]:.4f}, peer {error():.4f}"
        print(f"| {row.name} | {shown(mine)} | {name} {shown(us)} | {us / mine:.2f}x | {asked} | {note} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="scan, select, train, encode, layer, attend")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"faiss {faiss.__version__}, torch {torch.__version__}, numpy {np.__version__}; fastest of {args.rounds} rounds\n")
    print("| task | ours | peer | ratio | must / aim | |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        ours, data = Ours(), Data(folder)
        for kind, make in table(data):
            if not args.only or kind in args.only:
                compare(ours, make(), args.rounds)
        ours.end()


if __name__ == "__main__":
    main()
