//! Starting other programs from the repository's root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository's root: the folder above this crate.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository")
}

/// Where cargo puts what it builds for the main workspace.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// A program started in the repository's root.
pub(crate) fn program(name: &str) -> Command {
    let mut cmd = Command::new(name);
    cmd.current_dir(root());
    cmd
}

/// The cargo that runs us, so that its toolchain is the pinned one.
pub(crate) fn cargo() -> Command {
    program(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
}

/// Prints the command, runs it and turns a failure into a sentence.
pub(crate) fn run(cmd: &mut Command) -> Result<(), String> {
    let line = shown(cmd);
    eprintln!("    {line}");
    match cmd.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{line}` ended with {status}")),
        Err(e) => Err(format!("`{line}` could not be started: {e}")),
    }
}

/// Whether a quiet trial run of the command succeeds: how optional tools are found.
pub(crate) fn works(cmd: &mut Command) -> bool {
    cmd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn shown(cmd: &Command) -> String {
    let mut words: Vec<String> = cmd
        .get_envs()
        .filter_map(|(key, value)| Some(format!("{}={}", key.to_str()?, value?.to_str()?)))
        .collect();
    let name = Path::new(cmd.get_program()).file_name().unwrap_or(cmd.get_program());
    words.push(name.to_string_lossy().into_owned());
    let root = format!("{}/", root().display());
    words.extend(cmd.get_args().map(|arg| arg.to_string_lossy().replace(&root, "")));
    words.iter_mut().filter(|w| w.contains(' ')).for_each(|w| *w = format!("'{w}'"));
    words.join(" ")
}
