//! The `tersa` command as a library, so that tests and fuzz targets reach the readers and writers of other tools' files.

pub mod archive;
pub mod args;
pub mod attention;
pub mod bench;
pub mod coding;
pub mod compress;
pub mod decompress;
pub mod dump;
pub mod eval;
pub mod exit;
pub mod files;
mod heads;
pub mod inspect;
pub mod measure;
pub mod meta;
pub mod output;
pub mod pack;
mod parallel;
pub mod pipeline;
pub mod plan;
mod plot;
pub mod progress;
pub mod report;
pub mod select;
pub mod selection;
pub mod unpack;
pub mod verify;
pub mod zstd_coder;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Verb};
use exit::{Exit, Fault};

/// Runs the command line `args` (program name first) and returns how it ended. Errors are printed.
pub fn main(args: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help goes to standard output and is no error; without arguments it is a usage error as everywhere.
            let _ = e.print();
            return if e.exit_code() == 0 { Exit::Ok } else { Exit::Usage };
        }
    };
    match choose_cpu_level().and_then(|()| run(&cli.verb)) {
        Ok(()) => Exit::Ok,
        Err(error) if is_closed_pipe(&error) => Exit::Failure,
        Err(error) => {
            // One line: what failed, then why, outermost first.
            let _ = writeln!(std::io::stderr(), "tersa: {error:#}");
            exit::exit_of(&error)
        }
    }
}

/// `TERSA_CPU=scalar|avx2|avx512` lowers the instruction level; it never raises it.
fn choose_cpu_level() -> Result<()> {
    use tersa_core::cpu::{Level, lower_to};

    let Some(name) = std::env::var_os("TERSA_CPU").filter(|v| !v.is_empty()) else { return Ok(()) };
    let level = name.to_str().and_then(Level::from_name).ok_or_else(|| {
        Fault::usage(format!("TERSA_CPU={}: no such level; use scalar, avx2 or avx512", name.display()))
    })?;
    lower_to(level);
    Ok(())
}

fn run(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Compress(args) => compress::run(args),
        Verb::Decompress(args) => decompress::run(args),
        Verb::Inspect(args) => inspect::run(args),
        Verb::Verify(args) => verify::run(args),
        Verb::Bench(args) => bench::run(args),
        Verb::Eval(args) => eval::run(args),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "tersa", &mut script);
            std::io::stdout().write_all(&script).context("standard output")
        }
        Verb::Man { dir: Some(dir) } => man_pages(dir),
        Verb::Man { dir: None } => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            std::io::stdout().write_all(&page).context("standard output")
        }
    }
}

fn man_pages(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("{}: cannot make the folder", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir)
        .with_context(|| format!("{}: cannot write the manual pages", dir.display()))
}

/// Whoever reads our output has seen enough: no message, as every filter does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
