//! `cargo xtask big`: a synthetic dump larger than any cache, compressed and read in part, with the memory and the
//! bytes that took. Shows the limits that docs/benchmarks.md states; not a test, since it needs disk and minutes.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::run::{cargo, run, target};

type Result<T> = std::result::Result<T, String>;

/// Llama-3.1-8B's cache: 32 layers of 8 heads x 128, f16.
const LAYERS: usize = 32;
const HEADS: usize = 8;
const HEAD_DIM: usize = 128;

/// Most that may be resident beyond the mapped input, and most that reading one layer's chunk may touch.
const MEMORY_LIMIT: u64 = 64 << 20;
const READ_SLACK: u64 = 64 << 10;

/// Makes the dump, compresses it, reads 256 tokens of one layer back, and says what each took.
pub(crate) fn big(gib: usize, codec: &str) -> Result<()> {
    let tersa = release_binary()?;
    let dir = &target().join("big");
    fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let (dump, packed, part) =
        (dir.join("kv.safetensors"), dir.join("kv.tersa"), dir.join("part.safetensors"));
    let tokens = (gib << 30) / (LAYERS * 2 * HEADS * HEAD_DIM * 2);
    let bytes = write_dump(&dump, tokens).map_err(|e| format!("{}: {e}", dump.display()))?;
    println!("dump: {tokens} tokens, {:.2} GiB", bytes as f64 / (1u64 << 30) as f64);

    let mut command = Command::new(&tersa);
    command.arg("compress").arg(&dump).args(["-f", "--codec", codec, "-o"]).arg(&packed);
    let run = Observed::run(&mut command)?;
    println!(
        "compress {codec}: {:.1} s, {:.2} GB/s; at most {:.1} MiB resident beyond mapped files (limit {} MiB)",
        run.seconds,
        bytes as f64 / run.seconds / 1e9,
        run.peak_anonymous as f64 / (1u64 << 20) as f64,
        MEMORY_LIMIT >> 20
    );
    if run.peak_anonymous > MEMORY_LIMIT {
        return Err("compress took more memory than it may".into());
    }

    let first = tokens / 2 / 256 * 256;
    let mut command = Command::new(&tersa);
    command.arg("decompress").arg(&packed).args(["-f", "--to", "safetensors", "--layers", "7"]);
    command.arg("--tokens").arg(format!("{first}..{}", first + 256)).arg("-o").arg(&part);
    let run = Observed::run(&mut command)?;
    let file = fs::metadata(&packed).map_err(|e| format!("{}: {e}", packed.display()))?.len();
    let payload = file * 256 / tokens as u64 / LAYERS as u64;
    let limit = payload + payload / 10 + READ_SLACK;
    println!(
        "read 256 tokens of one layer: {:.1} ms, {} bytes read for {payload} of payload (limit {limit})",
        run.seconds * 1e3,
        run.bytes_read
    );
    if run.bytes_read > limit {
        return Err("the partial read touched more than it may".into());
    }
    fs::remove_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))
}

/// The command line, built for release.
pub(crate) fn release_binary() -> Result<PathBuf> {
    run(cargo().args(["build", "--quiet", "--release", "-p", "tersa-cli"]))?;
    Ok(target().join("release/tersa"))
}

/// Writes K and V of every layer, normally distributed with a few strong channels, as caches have them.
fn write_dump(path: &Path, tokens: usize) -> std::io::Result<u64> {
    let tensor = HEADS * tokens * HEAD_DIM * 2;
    let mut header = String::from(r#"{"__metadata__":{"kv_heads":"8","head_dim":"128","layout":"htd"}"#);
    for (i, name) in (0..LAYERS).flat_map(|l| [format!("k.L{l}"), format!("v.L{l}")]).enumerate() {
        let (start, end) = (i * tensor, (i + 1) * tensor);
        let shape = format!("[{HEADS},{tokens},{HEAD_DIM}]");
        header += &format!(r#","{name}":{{"dtype":"F16","shape":{shape},"data_offsets":[{start},{end}]}}"#);
    }
    header += "}";
    header += &" ".repeat(header.len().next_multiple_of(64) - header.len() + 56);
    let total = (8 + header.len() + LAYERS * 2 * tensor) as u64;
    if fs::metadata(path).is_ok_and(|m| m.len() == total) {
        return Ok(total); // left by a run that failed
    }
    let noise = noise(8 << 20);
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for t in 0..LAYERS * 2 {
        // Other tensors start elsewhere in the noise; whole rows, so that strong channels stay where they are.
        let mut at = t * 7919 * HEAD_DIM * 2 % noise.len();
        let mut left = tensor;
        while left > 0 {
            let n = left.min(noise.len() - at);
            out.write_all(&noise[at..at + n])?;
            (at, left) = (0, left - n);
        }
    }
    out.flush()?;
    Ok(total)
}

/// f16 values, about normal with variance 1/4, every 16th channel eight times as strong.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut out = Vec::with_capacity(bytes);
    for i in 0..bytes / 2 {
        let sum: f32 = (0..4).map(|_| uniform()).sum::<f32>() - 2.0;
        let x = if i % 16 == 0 { sum * 8.0 } else { sum };
        out.extend_from_slice(&f16_bits(x).to_le_bytes());
    }
    out
}

/// binary16 bits of a number below 65504 in magnitude, truncated; 0 where it would be subnormal.
fn f16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let (sign, magnitude) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
    let rebased = (magnitude >> 13).saturating_sub((127 - 15) << 10);
    let half = if rebased < 1 << 10 { sign } else { sign | rebased };
    u16::try_from(half).expect("a magnitude below 65504 has 15 bits")
}

/// What a child took, read from `/proc` while it ran and before it was reaped.
struct Observed {
    seconds: f64,
    peak_anonymous: u64,
    bytes_read: u64,
}

impl Observed {
    fn run(command: &mut Command) -> Result<Self> {
        let start = Instant::now();
        let mut child =
            command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|e| e.to_string())?;
        let mut peak_anonymous = 0;
        let seconds = loop {
            let status = proc(&child, "status");
            let anonymous = field(&status, "RssAnon:") + field(&status, "RssShmem:");
            peak_anonymous = peak_anonymous.max(anonymous * 1024);
            if status.is_empty() || status.contains("State:\tZ") {
                break start.elapsed().as_secs_f64();
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let bytes_read = field(&proc(&child, "io"), "rchar:");
        let status = child.wait().map_err(|e| e.to_string())?;
        if !status.success() {
            return Err(format!("{command:?}: {status}"));
        }
        Ok(Self { seconds, peak_anonymous, bytes_read })
    }
}

fn proc(child: &Child, file: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap_or_default()
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
