//! The `tersa` command.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(tersa_cli::main(std::env::args_os()) as u8)
}
