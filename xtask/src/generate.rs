//! `cargo xtask generate`: the checks of `examples/generate`, which has a lock file of its own and takes minutes to build.

use crate::llama;
use crate::run::{cargo, program, root, run, target};

/// Downloads the model on first use and runs the example's tests on it: against what llama.cpp said when it was recorded,
/// or, with `ask_llama`, says now.
pub(crate) fn generate(ask_llama: bool) -> Result<(), String> {
    let example = root().join("examples/generate");
    let manifest = example.join("Cargo.toml");
    let python = if ask_llama { llama::python()? } else { "python3".into() };
    let model = llama::data(&python, false)?.join(llama::SMOLLM2);
    let chore = |words: &[&str]| {
        let mut cargo = cargo();
        cargo.args(words).arg("--manifest-path").arg(&manifest);
        cargo
    };
    let built = |words: &[&str]| {
        let mut cargo = chore(words);
        cargo.args(["--release", "--locked", "--target-dir"]).arg(target().join("generate"));
        cargo
    };
    run(chore(&["fmt"]).args(["--", "--check"]))?;
    run(built(&["clippy", "--all-targets"]).args(["--", "-Dwarnings"]))?;
    let mut test = built(&["test"]);
    test.env("TERSA_GENERATE_MODEL", &model);
    if ask_llama {
        let said = target().join("llama/expected.json");
        let mut script = program(&python.to_string_lossy());
        let text = script.arg(example.join("tests/expected.py")).arg(&model).output();
        let text = text.map_err(|e| format!("{}: {e}", python.display()))?;
        if !text.status.success() {
            return Err(format!("expected.py: {}", String::from_utf8_lossy(&text.stderr)));
        }
        std::fs::write(&said, text.stdout).map_err(|e| format!("{}: {e}", said.display()))?;
        test.env("TERSA_GENERATE_EXPECTED", said);
    }
    run(test.args(["--", "--include-ignored"]))
}
