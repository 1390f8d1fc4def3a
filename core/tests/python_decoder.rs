//! `docs/tersa_decode.py` reads every codec's containers as this crate does.
//!
//! Without `python3`, or without the command `zstd` for the containers that need it, the test says so and passes;
//! `TERSA_TEST_REQUIRE=python3` makes that a failure.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints what it skips"
)]

mod containers;

use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use containers::{RECIPES, Recipe, decode_stream};
use tersa_core::num::{DType, convert};

fn missing(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
    let required = env::var("TERSA_TEST_REQUIRE").is_ok_and(|list| list.split(',').any(|t| t == "python3"));
    assert!(found || !required, "{tool} is required by TERSA_TEST_REQUIRE and not installed");
    if !found {
        println!("{tool}: not installed, skipped");
    }
    !found
}

/// Runs the decoder; its standard output if it succeeded.
fn python(args: &[&str]) -> Result<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tersa_decode.py");
    let output = Command::new("python3").arg("-B").arg(script).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Equal bytes, but for rotated codecs: the page leaves the order of their sums free, so a value near the middle
/// between two representable ones may round to either.
fn compare(recipe: &Recipe, got: &[u8], expected: &[u8]) {
    assert_eq!(got.len(), expected.len(), "{recipe:?}");
    if !recipe.spec.contains("had+") {
        let differ = got.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!(differ, None, "{recipe:?}");
        return;
    }
    // Relative and absolute distance of neighbours of the type; for f32 what reordered sums may lose.
    let (relative, absolute) = match recipe.dtype {
        DType::F16 => (two_to(-10), two_to(-24)),
        DType::Bf16 => (two_to(-7), 0.0),
        DType::F8E4m3 => (two_to(-3), two_to(-9)),
        DType::F8E5m2 => (two_to(-2), two_to(-16)),
        _ => (0.0, 0.0),
    };
    let floats = |bytes: &[u8]| {
        let mut out = vec![0.0; bytes.len() / recipe.dtype.block_bytes()];
        convert::to_f32(recipe.dtype, bytes, &mut out).unwrap();
        out
    };
    let (got, expected) = (floats(got), floats(expected));
    let mut differ = 0;
    for (got, expected) in got.chunks(recipe.head_dim).zip(expected.chunks(recipe.head_dim)) {
        let largest = expected.iter().fold(0_f32, |m, x| m.max(x.abs()));
        for (a, b) in got.iter().zip(expected) {
            let bound = relative * b.abs() + absolute + two_to(-20) * largest;
            assert!(a.to_bits() == b.to_bits() || (a - b).abs() <= bound, "{recipe:?}: {a} is not {b}");
            differ += usize::from(a.to_bits() != b.to_bits());
        }
    }
    // Such ties are rare but in f32, where every reordered sum shows.
    assert!(recipe.dtype == DType::F32 || differ * 50 < expected.len(), "{recipe:?}: {differ} values differ");
}

/// 2 to the power `n`.
fn two_to(n: i32) -> f32 {
    2_f32.powi(n)
}

#[test]
fn the_python_decoder_agrees_on_every_codec() {
    if missing("python3") || missing("zstd") {
        return;
    }
    let dir = env::temp_dir().join(format!("tersa-python-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    for recipe in RECIPES {
        let container = recipe.build();
        fs::write(path("in.tersa"), &container).unwrap();
        let listing = python(&[&path("in.tersa")]).unwrap_or_else(|e| panic!("{recipe:?}: {e}"));
        assert!(listing.contains(recipe.spec), "{listing}");
        let mut streams = Vec::new();
        for stream in 0..2 {
            python(&[&path("in.tersa"), "--stream", &stream.to_string(), &path("out")])
                .unwrap_or_else(|e| panic!("{recipe:?}: {e}"));
            streams.push(fs::read(path("out")).unwrap());
            compare(recipe, &streams[stream], &decode_stream(&container, stream));
        }
        python(&[&path("in.tersa"), "--restore", &path("source")])
            .unwrap_or_else(|e| panic!("{recipe:?}: {e}"));
        let restored = fs::read(path("source/cache/kv.bin")).unwrap();
        assert!(restored == recipe.restored(&streams), "{recipe:?}: the restored file differs");
    }
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_python_decoder_finds_damage() {
    if missing("python3") || missing("zstd") {
        return;
    }
    let dir = env::temp_dir().join(format!("tersa-python-damage-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("damaged.tersa").to_str().unwrap().to_owned();
    let container = RECIPES[0].build();
    // A process for each byte would take minutes: a prime stride meets every kind of region.
    for at in (0..container.len()).step_by(1499).chain([5, 60, container.len() - 1, container.len() - 30]) {
        let mut damaged = container.clone();
        damaged[at] ^= 0x20;
        fs::write(&path, &damaged).unwrap();
        assert!(python(&[&path]).is_err(), "byte {at} of {}", container.len());
    }
    fs::write(&path, &container[..container.len() - 1]).unwrap();
    assert!(python(&[&path]).is_err());
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_python_decoder_is_short() {
    let script = include_str!("../../docs/tersa_decode.py");
    assert!(script.lines().count() <= 200, "{} lines", script.lines().count());
    assert!(script.lines().all(|l| l.chars().count() <= 130));
}
