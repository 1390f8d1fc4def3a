//! `tersa eval`: the attention-output error of compressed keys and values.

use anyhow::{Result, bail};
use clap::Args;

/// `tersa eval`.
#[derive(Args, Clone, Debug)]
pub struct EvalArgs {}

/// Runs the verb.
///
/// # Errors
/// If the dump cannot be read.
pub fn run(_args: &EvalArgs) -> Result<()> {
    bail!("eval is not built yet")
}
