//! `cargo xtask test`: every check of the project in one go, stopping at the first that fails.

use std::time::{Duration, Instant};

use crate::run::{cargo, program, root, run, target, works};
use crate::{consumers, nostd};

/// What became of a step that did not fail.
pub(crate) enum Outcome {
    Passed,
    /// An optional tool is absent: which, and why that matters.
    Skipped(String),
}

type Step = (&'static str, fn() -> Result<Outcome, String>);

/// In order of cost: what fails soonest comes first.
const STEPS: &[Step] = &[
    ("fmt", || all(&[&["fmt", "--all", "--", "--check"]])),
    ("clippy, workspace", || all(&[&["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"]])),
    ("clippy, core without features", || {
        let core = ["clippy", "-p", "tersa-core", "--lib", "--no-default-features"];
        all(&[
            &[&core[..], &["--", "-Dwarnings"]].concat(),
            &[&core[..], ALLOC, &["--", "-Dwarnings"]].concat(),
        ])
    }),
    ("tests, workspace", || all(&[&["test", "--workspace"]])),
    ("tests, core without std", || {
        let core = ["test", "-p", "tersa-core", "--lib", "--no-default-features"];
        all(&[&core, &[&core[..], ALLOC].concat()])
    }),
    ("core with rayon", || {
        let features = ["-p", "tersa-core", "--features", "rayon"];
        all(&[
            &[&["clippy"], &features[..], &["--lib", "--test", "rayon", "--", "-Dwarnings"]].concat(),
            &[&["test"], &features[..], &["--test", "rayon"]].concat(),
        ])
    }),
    ("tests, command line at TERSA_CPU=scalar", || at_level("scalar")),
    ("tests, command line at TERSA_CPU=avx2", || at_level("avx2")),
    ("no_std static library linked into C", nostd::link_and_run),
    ("installed library in projects of make and CMake", consumers::build_and_run),
    ("real llama.cpp with Tersa's attention", crate::llama::quick),
    ("docs", || {
        run(cargo().env("RUSTDOCFLAGS", "-Dwarnings").args(["doc", "--workspace", "--no-deps"]))?;
        Ok(Outcome::Passed)
    }),
    ("valgrind", nostd::valgrind),
    ("miri", miri),
    ("address sanitizer", address_sanitizer),
    ("cargo-deny", deny),
];

const ALLOC: &[&str] = &["--features", "alloc"];

/// Runs the steps whose name holds one of `words` (all of them without words).
pub(crate) fn test(words: &[&str]) -> Result<(), String> {
    let steps: Vec<&Step> =
        STEPS.iter().filter(|s| words.is_empty() || words.iter().any(|w| s.0.contains(w))).collect();
    if steps.is_empty() {
        let names: Vec<_> = STEPS.iter().map(|s| s.0).collect();
        return Err(format!("no step is named like {words:?}; there are: {}", names.join("; ")));
    }
    let started = Instant::now();
    let mut done: Vec<(&str, Duration, String)> = Vec::new();
    let (mut passed, mut skipped) = (0, 0);
    let mut failure = None;
    for (i, (name, check)) in steps.iter().enumerate() {
        eprintln!("\n==> [{}/{}] {name}", i + 1, steps.len());
        let start = Instant::now();
        let result = check();
        let word = match &result {
            Ok(Outcome::Passed) => {
                passed += 1;
                "ok".to_owned()
            }
            Ok(Outcome::Skipped(why)) => {
                skipped += 1;
                eprintln!("    {why}");
                why.clone()
            }
            Err(_) => "FAILED".to_owned(),
        };
        done.push((name, start.elapsed(), word));
        if let Err(why) = result {
            failure = Some(format!("step `{name}` failed: {why}"));
            break;
        }
    }
    eprintln!("\nsummary");
    for (name, time, word) in &done {
        eprintln!("  {:>7.1} s  {name}: {word}", time.as_secs_f64());
    }
    for step in &steps[done.len()..] {
        eprintln!("        -    {}: not run", step.0);
    }
    eprintln!("  {:>7.1} s  in all", started.elapsed().as_secs_f64());
    println!("{passed} passed, {} failed, {skipped} skipped", usize::from(failure.is_some()));
    failure.map_or(Ok(()), Err)
}

fn all(commands: &[&[&str]]) -> Result<Outcome, String> {
    for args in commands {
        run(cargo().args(*args))?;
    }
    Ok(Outcome::Passed)
}

/// Kernels are tested at every level by their own tests; here the whole command runs on the lower ones.
fn at_level(level: &str) -> Result<Outcome, String> {
    if level != "scalar" && !cfg!(target_arch = "x86_64") {
        return Ok(Outcome::Skipped(format!("{level}: not a level of this architecture, skipped")));
    }
    // Picked from the whole workspace: `-p tersa-cli` would unite other features and build everything once more.
    let mut test = cargo();
    test.env("TERSA_CPU", level).args(["test", "--workspace"]);
    for name in command_line_tests().map_err(|e| format!("cli/tests: {e}"))? {
        test.arg("--test").arg(name);
    }
    run(&mut test)?;
    Ok(Outcome::Passed)
}

/// The test programs that start the command, which is what reads `TERSA_CPU`.
fn command_line_tests() -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("cli/tests"))? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|s| s.to_str());
        if let Some(stem) = stem.filter(|_| path.is_file() && path.extension().is_some_and(|e| e == "rs"))
            && std::fs::read_to_string(&path)?.lines().any(|line| line == "mod run;")
        {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn miri() -> Result<Outcome, String> {
    if !works(program("cargo").args(["+nightly", "miri", "--version"])) {
        return Ok(Outcome::Skipped("miri: not installed, skipped".into()));
    }
    // Outside the kernels there is no unsafe code to interpret.
    run(program("cargo").args(["+nightly", "miri", "test", "-p", "tersa-core", "--lib", "kernels::"]))?;
    Ok(Outcome::Passed)
}

/// Every kernel at every level, with each load and store checked.
fn address_sanitizer() -> Result<Outcome, String> {
    let linux = cfg!(all(target_os = "linux", target_arch = "x86_64"));
    if !linux || !works(program("cargo").args(["+nightly", "--version"])) {
        return Ok(Outcome::Skipped("address sanitizer: no nightly toolchain, skipped".into()));
    }
    let args = ["+nightly", "test", "-p", "tersa-core", "--lib", "--target", "x86_64-unknown-linux-gnu"];
    run(program("cargo")
        .env("RUSTFLAGS", "-Zsanitizer=address")
        .env("CARGO_TARGET_DIR", target().join("asan"))
        .args(args)
        .args(["--", "kernels::"]))?;
    Ok(Outcome::Passed)
}

fn deny() -> Result<Outcome, String> {
    if !works(cargo().args(["deny", "--version"])) {
        return Ok(Outcome::Skipped("cargo-deny: not installed, skipped".into()));
    }
    // Advisories would need the network.
    run(cargo().args(["deny", "check", "bans", "licenses", "sources"]))?;
    Ok(Outcome::Passed)
}
