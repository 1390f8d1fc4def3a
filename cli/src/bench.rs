//! `tersa bench`: codecs side by side on the user's own dump.

use anyhow::{Result, bail};
use clap::Args;

/// `tersa bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {}

/// Runs the verb.
///
/// # Errors
/// If the dump cannot be read.
pub fn run(_args: &BenchArgs) -> Result<()> {
    bail!("bench is not built yet")
}
