//! `cargo xtask demo`: the README's first command.

use crate::run::{cargo, root, run, target};

/// Four layers of a real model's cache, shipped with the tests.
const DUMP: &str = "tests/data/smollm2-135m-1k-sample.safetensors";

/// Compresses the shipped dump and verifies the result against it.
pub(crate) fn demo() -> Result<(), String> {
    let out = target().join("demo.tersa");
    let packed = out.strip_prefix(root()).unwrap_or(&out).display().to_string();
    let tersa = ["run", "--quiet", "--release", "-p", "tersa-cli", "--"];
    run(cargo().args(tersa).args(["compress", DUMP, "-o", &packed, "-f"]))?;
    run(cargo().args(tersa).args(["verify", &packed, "--against", DUMP]))
}
