//! Python environments in `target`, made on first use from PyPI.

use std::path::PathBuf;

use crate::run::{program, run, target};

/// A Python that has `packages`, installed in groups, one after the other: the one that the variable `there` names, or
/// that of `target/{name}/venv`.
pub(crate) fn python(name: &str, there: &str, packages: &[&[&str]]) -> Result<PathBuf, String> {
    if let Some(python) = std::env::var_os(there) {
        return Ok(python.into());
    }
    let venv = target().join(name).join("venv");
    let python = venv.join("bin/python");
    if !venv.join("ready").exists() {
        run(program("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        for group in packages {
            run(program(&python.to_string_lossy()).args(["-m", "pip", "install", "-q"]).args(*group))?;
        }
        std::fs::write(venv.join("ready"), "").map_err(|e| format!("{}: {e}", venv.display()))?;
    }
    Ok(python)
}
