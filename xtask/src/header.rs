//! Writing `include/tersa.h` and `tests/abi/symbols.txt`. The tests that compare them can also write them.

use crate::run::{cargo, run};

/// Runs those tests in the mode that writes.
pub(crate) fn header() -> Result<(), String> {
    for (test, name) in [("header", "the_committed_header"), ("programs", "exported_symbols")] {
        let args = ["test", "--quiet", "--workspace", "--test", test, "--", name];
        run(cargo().env("TERSA_WRITE_HEADER", "1").args(args))?;
    }
    Ok(())
}
