//! `cargo xtask peers`: our kernels beside faiss, torch and numpy, in turns.
//!
//! The peers come from PyPI on first use (torch is some gigabytes) and stay in `target/peers`. `TERSA_PEERS_PYTHON` names a Python
//! that has them already.

use crate::run::{cargo, program, root, run};
use crate::venv;

/// The versions that docs/benchmarks.md has figures of.
const PACKAGES: &[&[&str]] = &[&["numpy==2.4.6", "faiss-cpu==1.15.1", "torch==2.15.0"]];

/// Prints the table; `words` go to the script.
pub(crate) fn peers(words: &[&str]) -> Result<(), String> {
    let python = venv::python("peers", "TERSA_PEERS_PYTHON", PACKAGES)?;
    run(cargo().args(["bench", "-q", "-p", "tersa-core", "--bench", "peers", "--no-run"]))?;
    run(program(&python.to_string_lossy()).arg(root().join("tests/peers/peers.py")).args(words))
}
