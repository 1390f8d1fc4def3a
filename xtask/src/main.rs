//! `cargo xtask`: the project's own chores, with nothing but cargo and a C compiler needed.

#![allow(clippy::print_stdout, reason = "a command line")]

mod big;
mod consumers;
mod demo;
mod generate;
mod header;
mod install;
mod llama;
mod nostd;
mod peers;
mod run;
mod test;
mod venv;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask <chore>

  test [WORD...]   every check of the project; with words, only the steps whose name holds one of them
  header           write include/tersa.h and the list of exported symbols anew, from the crate ffi
  install [OPTION VALUE...]
                   build the C library and install it with its headers, pkg-config and CMake files;
                   --prefix /usr/local, --destdir FOLDER, --libdir lib
  demo             compress the shipped dump of a real model and verify the result against it
  llama            let the real llama.cpp load states that went through tersa (builds it once, minutes);
                   `llama judge` compares Tersa as its attention with an f64 reference, `llama generate` runs the
                   C++ example, `llama eval [retrieval|speed|likelihood|sessions]` measures, for hours
  generate         the tests of examples/generate on a real model, which is downloaded (builds candle, minutes);
                   `generate llama` asks the real llama.cpp anew for the text that the example has to give
  peers [WORDS]    our kernels beside faiss, torch and numpy, in turns (installs them once, gigabytes)
  big [GIB]        compress a synthetic dump of 10 GiB and read a part of it, within the stated memory";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["test", ref words @ ..] => test::test(words),
        ["header"] => header::header(),
        ["install", ref options @ ..] => install::install(options),
        ["demo"] => demo::demo(),
        ["llama", ref words @ ..] => llama::llama(words),
        ["generate"] => generate::generate(false),
        ["generate", "llama"] => generate::generate(true),
        ["peers", ref words @ ..] => peers::peers(words),
        ["big"] => big::big(10, "had+lm4"),
        ["big", gib] if gib.parse::<usize>().is_ok() => big::big(gib.parse().unwrap_or(10), "had+lm4"),
        ["help" | "--help" | "-h"] => {
            eprintln!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
