//! Exit codes and the errors that carry them.

use std::fmt;

/// How a run ends. The numbers are part of the command's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// Something could not be done.
    Failure = 1,
    /// The command line asks for something that makes no sense.
    Usage = 2,
    /// A `.tersa` file is damaged.
    Damage = 3,
    /// A size or error target cannot be met.
    TargetMissed = 4,
}

/// An error that ends the run with a code other than [`Exit::Failure`]. Any `anyhow` chain that holds one keeps it.
#[derive(Debug)]
pub struct Fault {
    exit: Exit,
    message: String,
}

impl Fault {
    /// The input is damaged.
    pub fn damage(message: impl Into<String>) -> anyhow::Error {
        Self { exit: Exit::Damage, message: message.into() }.into()
    }

    /// The options do not fit together or do not fit the input.
    pub fn usage(message: impl Into<String>) -> anyhow::Error {
        Self { exit: Exit::Usage, message: message.into() }.into()
    }

    /// The target was not met.
    pub fn target_missed(message: impl Into<String>) -> anyhow::Error {
        Self { exit: Exit::TargetMissed, message: message.into() }.into()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// The code that an error ends the run with.
#[must_use]
pub fn exit_of(error: &anyhow::Error) -> Exit {
    error.downcast_ref::<Fault>().map_or(Exit::Failure, |fault| fault.exit)
}
