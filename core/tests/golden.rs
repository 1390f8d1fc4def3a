//! Containers written by earlier releases decode for ever.
//!
//! `tests/golden/format-X.Y/` holds small containers of every codec and `expected.txt`: for each, the XXH64 of the
//! container and of its decoded streams. They are never rewritten. A release that writes a new format version adds a
//! folder: `TERSA_GOLDEN_WRITE=1 cargo test -p tersa-core --test golden` makes the current version's folder, and
//! refuses if it is there.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints what it skips"
)]

mod containers;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use containers::{RECIPES, decode_stream};
use tersa_core::format::{Reader, VERSION};
use tersa_core::num::hash::xxh64;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

/// One line: name, hash of the container, hash of each stream.
fn line(name: &str, container: &[u8]) -> String {
    let mut line = format!("{name} {:016x}", xxh64(0, container));
    for stream in 0..Reader::open(container).unwrap().streams().len() {
        write!(line, " {:016x}", xxh64(0, &decode_stream(container, stream))).unwrap();
    }
    line
}

fn write_current() {
    let dir = golden().join(format!("format-{}.{}", VERSION.major, VERSION.minor));
    assert!(!dir.exists(), "{} is there already, and golden files are never rewritten", dir.display());
    fs::create_dir_all(&dir).unwrap();
    let mut expected = String::new();
    for recipe in RECIPES {
        let name =
            format!("{}-{}-{}.tersa", recipe.spec.replace([':', '+'], "_"), recipe.dtype, recipe.head_dim);
        let container = recipe.build();
        fs::write(dir.join(&name), &container).unwrap();
        writeln!(expected, "{}", line(&name, &container)).unwrap();
    }
    fs::write(dir.join("expected.txt"), expected).unwrap();
}

#[test]
fn golden_containers_decode_as_when_they_were_written() {
    if env::var_os("TERSA_GOLDEN_WRITE").is_some() {
        write_current();
    }
    let mut n = 0;
    for version in fs::read_dir(golden()).unwrap() {
        let dir = version.unwrap().path();
        // Other golden data lie beside the folders.
        if !dir.is_dir() {
            continue;
        }
        for expected in fs::read_to_string(dir.join("expected.txt")).unwrap().lines() {
            let name = expected.split_once(' ').unwrap().0;
            let container = fs::read(dir.join(name)).unwrap();
            assert_eq!(line(name, &container), expected, "{}", dir.display());
            Reader::open(container.as_slice()).unwrap().verify(|_, _| ()).unwrap();
            n += 1;
        }
    }
    assert!(n >= RECIPES.len(), "{n} golden containers");
}
