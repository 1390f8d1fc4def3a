//! The `tersa` command.

fn main() {}
