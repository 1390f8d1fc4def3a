#!/usr/bin/env python3
"""A decoder for .tersa files, written from docs/format.md alone: made to be read, not to be fast.

tersa_decode.py FILE                 checks every hash and lists the streams
tersa_decode.py FILE --stream N OUT  decodes stream N to [token][head][dim] in its own element type
tersa_decode.py FILE --restore DIR   builds the source files again

Zstandard frames need the command zstd. Refuses lossy codecs on llama.cpp's block types, which it cannot quantize again.
"""
import io, math, os, re, struct, subprocess, sys

M64 = (1 << 64) - 1
P1, P2, P3, P4, P5 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
rotl = lambda x, r: (x << r | x >> 64 - r) & M64
mix = lambda acc, word: rotl(acc + word * P2 & M64, 31) * P1 & M64

def xxh64(b):
    h, body, words = P5, len(b) // 32 * 32, len(b) // 8 * 8
    if body:
        lanes = [P1 + P2 & M64, P2, 0, -P1 & M64]
        for stripe in struct.iter_unpack("<4Q", b[:body]):
            lanes = [mix(acc, word) for acc, word in zip(lanes, stripe)]
        h = sum(rotl(acc, r) for acc, r in zip(lanes, (1, 7, 12, 18)))
        for acc in lanes:
            h = (h ^ mix(0, acc)) * P1 + P4 & M64
    h = h + len(b) & M64
    for word, in struct.iter_unpack("<Q", b[body:words]):
        h = rotl(h ^ mix(0, word), 27) * P1 + P4 & M64
    for half, in struct.iter_unpack("<I", b[words:words + (len(b) & 4)]):
        h = rotl(h ^ half * P1 & M64, 23) * P2 + P3 & M64
    for byte in b[words + (len(b) & 4):]:
        h = rotl(h ^ byte * P5 & M64, 11) * P1 & M64
    h = (h ^ h >> 33) * P2 & M64
    h = (h ^ h >> 29) * P3 & M64
    return h ^ h >> 32

def need(ok, what):
    ok or sys.exit("tersa_decode: " + what)
unzstd = lambda frame: subprocess.run(["zstd", "-dcq"], input=frame, stdout=subprocess.PIPE, check=True).stdout
# Element types: number -> (elements of a block, its bytes); small floats -> (fraction bits, bias, largest finite pattern)
TYPES = {1: (1, 4), 2: (1, 2), 3: (1, 2), 4: (1, 1), 5: (1, 1), 16: (32, 34), 17: (32, 18), 18: (32, 20), 19: (32, 22),
         20: (32, 24), 21: (32, 18)}
FLOATS = {2: (10, 15, 0x7BFF), 3: (7, 127, 0x7F7F), 4: (3, 7, 0x7E), 5: (2, 15, 0x7B)}
MAX_F32 = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
f32 = lambda x: struct.unpack("<f", struct.pack("<f", max(-MAX_F32, min(MAX_F32, x))))[0]

def narrow(x, dtype):
    if dtype == 1:
        return struct.pack("<f", x)
    need(dtype in FLOATS, "a lossy codec on a stream of blocks: not in this decoder")
    (fraction, bias, top), size = FLOATS[dtype], TYPES[dtype][1]
    exponent = max(math.frexp(x)[1] - 1 if x else -bias, 1 - bias)
    bits = round(math.ldexp(abs(x), fraction - exponent)) + (exponent + bias - 1 << fraction)
    return (min(bits, top) | (math.copysign(1, x) < 0) << 8 * size - 1).to_bytes(size, "little")

def unrotate(x, signs):
    p = 1 << len(x).bit_length() - 1
    for start in [len(x) - p, 0] if p < len(x) else [0]:
        w, h = x[start:start + p], 1
        while h < p:
            w = [f32(w[i - h] - w[i] if i & h else w[i] + w[i + h]) for i in range(p)]
            h *= 2
        x[start:start + p] = [f32(v * f32(1 / math.sqrt(p))) for v in w]
    return [-v if signs[i // 8] >> i % 8 & 1 else v for i, v in enumerate(x)]

def decode(name, code, n, d, dtype, side):
    (block, size), values = TYPES[dtype], []
    stages, tile = name.split("+"), io.BytesIO(code)
    take, quantizer = tile.read, [s for s in stages if s not in ("mean", "had", "unbiased", "ls")][0]
    f16 = lambda count: struct.unpack(f"<{count}e", take(2 * count))
    f32s = lambda count: struct.unpack(f"<{count}f", take(4 * count))
    def codes(bits, count):
        stream = int.from_bytes(take((count * bits + 7) // 8), "little")
        return [stream >> i * bits & (1 << bits) - 1 for i in range(count)]
    if n == 0 or quantizer == "raw" or (name, dtype) in (("q8_0", 16), ("q4_0", 17)):
        values = take(n * d // block * size)
    elif quantizer == "lossless":
        for mode, length in (struct.unpack("<BI", take(5)) for _ in range(size if block == 1 else 1)):
            bases = take(d) if mode == 2 else b""
            plane = unzstd(take(length - len(bases))) if mode else take(length)
            values.append(bytes(b + bases[i % d] & 255 for i, b in enumerate(plane)) if bases else plane)
        values = b"".join(map(bytes, zip(*values)))
    elif quantizer in ("q8_0", "q4_0"):
        for _ in range(n * d // 32):
            scale, raw = f16(1)[0], take(32 if quantizer == "q8_0" else 16)
            quants = struct.unpack("32b", raw) if len(raw) > 16 else [(b >> up & 15) - 8 for up in (0, 4) for b in raw]
            values += [f32(scale * q) for q in quants]
        if "had" in stages:
            values = [v for i in range(0, n * d, d) for v in unrotate(values[i:i + d], side["signs"])]
    elif quantizer.startswith("lm"):
        scaled = lambda count: [f32(top * ratio) for top in f32s(1) for ratio in f16(count)]
        means, bits = scaled(d) if "mean" in stages else [0.0] * d, int(quantizer[2:])
        for scale in scaled(n):
            row = unrotate([side["grid"][c] for c in codes(bits, d)], side["signs"])
            values += [f32(f32(v * scale) + mean) for v, mean in zip(row, means)]
    elif quantizer.startswith("int"):
        bits, axis, g = re.fullmatch(r"int(\d)([ct])(\d+)", quantizer).groups()
        bits, g, factor = int(bits), int(g), math.ldexp(1, struct.unpack("b", take(1))[0])
        across = d if axis == "c" else -(-d // g)  # groups side by side
        groups = (-(-n // g) if axis == "c" else n) * across
        lo, scale = f16(groups), f16(groups)
        for k, q in enumerate(codes(bits, n * d)):
            j = k // d // g * across + k % d if axis == "c" else k // d * across + k % d // g
            values.append(f32(f32(lo[j] + f32(q * scale[j])) * factor))
    else:
        need(quantizer.startswith("pq:"), "unknown codec " + name)
        m, bits = map(int, quantizer[3:].split("x"))
        for _ in range(n):
            values += [x for s, c in enumerate(codes(bits, m)) for x in side["book"][s][c]]
    rows = b"".join(narrow(v, dtype) for v in values) if isinstance(values, list) else values
    need(len(rows) == n * d // block * size and not take(1), "a tile of another length")
    return rows

class File:
    def __init__(self, path):
        self.b = b = memoryview(open(path, "rb").read())
        need(len(b) > 127 and b[:8] == b"\x89TERSA\r\n" and b[-64:-56] == b"\x89TRSEND\n", "not a whole .tersa file")
        need(all(xxh64(f[:56]) == int.from_bytes(f[56:], "little") for f in (b[:64], b[-64:])), "a damaged frame")
        end, *place = struct.unpack_from("<4Q", b, len(b) - 56)
        need(b[8:10] == b"\0\0" and end == len(b) and not any(b[12:56]) and not any(b[-24:-8]), "version, length or reserved")
        self.pieces, self.sections, self.streams, self.codecs = {(0, 64), (end - 64, 64)}, {}, [], []
        for kind, critical, *place in struct.iter_unpack("<2I3Q", self.piece("directory", *place)[8:]):
            need(kind not in self.sections and (kind < 9 or not critical), f"section {kind}: twice, or unknown")
            self.sections[kind] = self.piece(f"section {kind}", *place)
        names, heads, chunks = (io.BytesIO(self.sections[kind]) for kind in (1, 3, 4))
        while length := names.read(1):
            self.codecs.append(str(names.read(*length), "utf-8"))
        for record in struct.iter_unpack("<2I2B2xIQ3I4x2Q3Q16x", self.sections[2]):
            s = dict(zip("part layer kind dtype step n heads d hadamard".split(), record), exact=record[11:])
            s["head_table"], s["chunk_table"] = heads.read(32 * s["heads"]), chunks.read(24 * -(-s["n"] // s["step"]))
            need((xxh64(s["head_table"]), xxh64(s["chunk_table"])) == record[9:11], "a stream's tables are damaged")
            self.streams.append(s)
    def piece(self, what, offset, length, xxh):
        piece = self.b[offset:offset + length]
        need(offset % 64 == 0 and len(piece) == length and xxh64(piece) == xxh, what + " is damaged")
        self.pieces.add((offset, length))
        return piece
    def side(self, place):
        raw = self.piece("side data", *place) if any(place) else bytes(32)
        n_grid, n_signs, m, nbits, n_numbers = struct.unpack_from("<4IQ", raw)
        grid, dsub = struct.unpack_from(f"<{n_grid}f", raw, 32), struct.unpack_from(f"<{m}I", raw, 32 + 4 * n_grid)
        numbers = iter(struct.unpack_from(f"<{n_numbers}f", raw, 32 + 4 * (n_grid + m)))
        book = [[[next(numbers) for _ in range(d)] for _ in range(1 << nbits)] for d in dsub]
        return {"grid": grid, "book": book, "signs": raw[len(raw) - n_signs:]}
    def rows(self, s):  # yields ((token, head), bytes of the row)
        heads = [(self.codecs[codec], self.side(place)) for codec, *place in struct.iter_unpack("<I4x3Q", s["head_table"])]
        exact = {t for t, in struct.iter_unpack("<I", self.piece("an exact set", *s["exact"]) if s["exact"][1] else b"")}
        row = s["d"] // TYPES[s["dtype"]][0] * TYPES[s["dtype"]][1]
        for c, place in enumerate(struct.iter_unpack("<QI4xQ", s["chunk_table"])):
            chunk = io.BytesIO(self.piece("a chunk", *place))
            order = sorted(range(c * s["step"], min((c + 1) * s["step"], s["n"])), key=lambda t: t not in exact)
            kept = sum(t in exact for t in order)
            lengths = struct.unpack(f"<{len(heads)}I", chunk.read(4 * len(heads)))
            for h, ((name, side), length) in enumerate(zip(heads, lengths)):
                data, tile = chunk.read(kept * row), chunk.read((length & 0x7FFFFFFF) - kept * row)
                data += decode("raw" if length >> 31 else name, tile, len(order) - kept, s["d"], s["dtype"], side)
                yield from (((t, h), data[i * row:(i + 1) * row]) for i, t in enumerate(order))
            need(not chunk.read(1), "a chunk is longer than its tiles")
    def verbatim(self):
        for offset, stored, n, zstd, xxh in struct.iter_unpack("<Q3I4xQ", self.sections.get(8, b"")):
            block = self.piece("a verbatim block", offset, stored, xxh)
            yield unzstd(block) if zstd else bytes(block)
    def restore(self, folder):
        need(7 in self.sections, "the file does not say what its source was")
        raw, at, files, plain = self.sections[7], 8, [], b"".join(self.verbatim())
        for _ in range(struct.unpack_from("<I", raw)[0]):
            length, n_extents, n_name = struct.unpack_from("<2QI", raw, at)
            name, at = str(raw[at + 24:at + 24 + n_name], "utf-8"), at + 24 + (n_name + 7) // 8 * 8
            need(not {"", ".", ".."} & set(name.split("/")) and not set("\\\0") & set(name), "unsafe name " + name)
            file = bytearray()
            for offset, size in [*struct.iter_unpack("<2Q", raw[at:at + 16 * n_extents]), (length, 0)]:
                gap = offset - len(file)
                file, plain = file + plain[:gap] + bytes(size), plain[gap:]
            files.append((os.path.join(folder, name), file))
            at += 16 * n_extents
        for s, (f, offset, *strides) in zip(self.streams, struct.iter_unpack("<I4x4Q", raw[at:])):
            block, size = TYPES[s["dtype"]]
            for (t, h), row in self.rows(s):
                start = offset + (t * strides[0] + h * strides[1]) // block * size
                for i in range(0, len(row), size):
                    files[f][1][start + i * strides[2]:start + i * strides[2] + size] = row[i:i + size]
        for path, file in files:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            open(path, "wb").write(file)

need(len(sys.argv) in (2, 4, 5), __doc__)
file, end, action = File(sys.argv[1]), 0, sys.argv[2:]
if action[:1] == ["--restore"]:
    file.restore(action[1])
elif action[:1] == ["--stream"]:
    rows = sorted(file.rows(file.streams[int(action[1])]))
    open(action[2], "wb").write(b"".join(row for _, row in rows))
for i, s in enumerate(file.streams if not action else []):
    names = sorted({file.codecs[codec] for codec, in struct.iter_unpack("<I28x", s["head_table"])})
    print(i, f"part {s['part']} layer {s['layer']} {'KV'[s['kind']]}: {s['n']} x {s['heads']} x {s['d']}", *names)
    any(False for _ in file.rows(s))
any(False for _ in file.verbatim())
for offset, length in sorted(file.pieces) if not action else []:
    need(end <= offset < end + 64 and not any(file.b[end:offset]), "a hole, or padding that is not zero")
    end = offset + length
