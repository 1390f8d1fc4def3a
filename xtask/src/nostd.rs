//! The proof that the core needs no std: a static library without it, linked into a C program and run.

use std::path::PathBuf;

use crate::run::{cargo, program, root, run, target, works};
use crate::test::Outcome;

/// Builds `tests/nostd` with and without `alloc` and runs `main.c` against both.
pub(crate) fn link_and_run() -> Result<Outcome, String> {
    for with_alloc in [false, true] {
        run(&mut program(build(with_alloc)?.to_str().expect("the target folder has a UTF-8 name")))?;
    }
    Ok(Outcome::Passed)
}

/// The same program under valgrind, which offers AVX2 at most.
pub(crate) fn valgrind() -> Result<Outcome, String> {
    if !works(program("valgrind").arg("--version")) {
        return Ok(Outcome::Skipped("valgrind: not installed, skipped".into()));
    }
    run(program("valgrind").args(["--quiet", "--error-exitcode=1"]).arg(build(true)?))?;
    Ok(Outcome::Passed)
}

/// The path of the finished program.
fn build(with_alloc: bool) -> Result<PathBuf, String> {
    let home = root().join("tests/nostd");
    let name = if with_alloc { "alloc" } else { "bare" };
    let dir = target().join("nostd");
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--manifest-path"]).arg(home.join("Cargo.toml"));
    build.arg("--target-dir").arg(&dir);
    if with_alloc {
        build.args(["--features", "alloc"]);
    }
    run(&mut build)?;
    let program_path = dir.join(format!("main-{name}"));
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut link = program(&cc);
    link.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1"]);
    if with_alloc {
        link.arg("-DTERSA_ALLOC");
    }
    link.arg(home.join("main.c"))
        .arg(dir.join("release/libtersa_nostd.a"))
        .arg("-o")
        .arg(&program_path)
        .arg("-lm");
    run(&mut link)?;
    Ok(program_path)
}
