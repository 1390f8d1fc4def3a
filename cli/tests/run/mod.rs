//! Running the command in a folder of its own.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The command in `dir`. It inherits `TERSA_CPU`, by which `cargo xtask test` runs these tests at the lower levels.
pub(crate) fn tersa(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tersa"));
    command.current_dir(dir);
    command
}

/// Runs it with `args` (split at spaces) and expects `code`.
pub(crate) fn run(dir: &Path, args: &str, code: i32) -> Output {
    let output = tersa(dir).args(args.split(' ')).output().unwrap();
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "tersa {args}\n{talk}");
    if code != 0 {
        assert_eq!(talk.trim_end().lines().count(), 1, "an error is one line: {talk}");
    }
    output
}

/// The repository's test data.
pub(crate) fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data")
}

/// The real dump: four layers, 1024 tokens, f16.
pub(crate) fn sample() -> PathBuf {
    data().join("smollm2-135m-1k-sample.safetensors")
}

/// A folder with the real dump as `kv.safetensors`.
pub(crate) fn with_sample() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(sample(), dir.path().join("kv.safetensors")).unwrap();
    dir
}

/// The real llama.cpp state files.
pub(crate) fn states() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(data().join("llama")).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e.to_string_lossy().starts_with("ggs")));
    files.sort();
    assert!(files.len() >= 7, "the state files are there");
    files
}

/// A safetensors dump of one layer of f32 `[heads][tokens][dim]` values.
pub(crate) fn write_dump(
    path: &Path,
    heads: usize,
    tokens: usize,
    dim: usize,
    value: impl Fn(usize, usize, usize) -> f32,
) {
    let bytes = heads * tokens * dim * 4;
    let shape = format!("[{heads},{tokens},{dim}]");
    let tensor = |name: &str, start: usize| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{}]}}"#, start + bytes)
    };
    let meta = format!(r#""__metadata__":{{"kv_heads":"{heads}","head_dim":"{dim}"}}"#);
    let header = format!("{{{meta},{},{}}}", tensor("k.L0", 0), tensor("v.L0", bytes));
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    for _ in 0..2 {
        for (h, t, d) in (0..heads * tokens * dim).map(|i| (i / (tokens * dim), i / dim % tokens, i % dim)) {
            out.extend_from_slice(&value(h, t, d).to_le_bytes());
        }
    }
    std::fs::write(path, out).unwrap();
}
