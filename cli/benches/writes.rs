//! What the system gives to one thread and to two that write as many bytes as `tersa decompress` of an 8K dump does.
//!
//! Limit of the command: it cannot end before its bytes are written, and on a device before they are synced. Pieces are of
//! 1 MiB, as the command's; two threads write one file or one each; all variants take turns.
//!
//! `cargo bench -p tersa-cli --bench writes -- FOLDER...` (the folder for temporary files unless some are named)
#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "a report of measurements")]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tersa_cli::files::write_all_at;

const PIECE: u64 = 1 << 20;
const PIECES: u64 = 180;
const ROUNDS: usize = 11;

/// Threads, files they share out, and whether the files are synced.
#[derive(Clone, Copy)]
struct Way {
    threads: usize,
    files: usize,
    sync: bool,
}

const WAYS: [Way; 6] = [
    Way { threads: 1, files: 1, sync: false },
    Way { threads: 2, files: 1, sync: false },
    Way { threads: 2, files: 2, sync: false },
    Way { threads: 1, files: 1, sync: true },
    Way { threads: 2, files: 1, sync: true },
    Way { threads: 2, files: 2, sync: true },
];

impl Way {
    /// Seconds for all pieces in new files, which are gone afterwards.
    fn write(self, folder: &Path) -> io::Result<f64> {
        let files =
            (0..self.files).map(|_| tempfile::tempfile_in(folder)).collect::<io::Result<Vec<File>>>()?;
        files.iter().try_for_each(|f| f.set_len(PIECES * PIECE))?;
        let next = AtomicU64::new(0);
        let one = |t: usize| -> io::Result<()> {
            let piece = vec![1; usize::try_from(PIECE).unwrap_or(0)];
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= PIECES {
                    return Ok(());
                }
                write_all_at(&files[t % files.len()], i * PIECE, &piece)?;
            }
        };
        let start = Instant::now();
        std::thread::scope(|s| {
            let one = &one;
            let others: Vec<_> = (1..self.threads).map(|t| s.spawn(move || one(t))).collect();
            let mine = one(0);
            others.into_iter().fold(mine, |done, other| done.and(other.join().unwrap_or(Ok(()))))
        })?;
        if self.sync {
            files.iter().try_for_each(File::sync_all)?;
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

fn main() -> io::Result<()> {
    let mut folders: Vec<PathBuf> =
        std::env::args().skip(1).filter(|a| !a.starts_with("--")).map(PathBuf::from).collect();
    if folders.is_empty() {
        folders.push(std::env::temp_dir());
    }
    println!("{PIECES} MiB in pieces of 1 MiB; medians of {ROUNDS} rounds; ratio to one thread");
    for folder in folders {
        let mut times = [const { Vec::new() }; WAYS.len()];
        for round in 0..=ROUNDS {
            for (way, times) in WAYS.iter().zip(&mut times) {
                let seconds = way.write(&folder)?;
                if round > 0 {
                    times.push(seconds);
                }
            }
        }
        let medians = times.map(|mut t| {
            t.sort_by(f64::total_cmp);
            t[t.len() / 2]
        });
        for (i, (way, seconds)) in WAYS.iter().zip(medians).enumerate() {
            let one = medians[i / 3 * 3];
            println!(
                "{}: threads {}, files {}, {:9} {:6.1} ms, {:5.2} GB/s, {:4.2}x",
                folder.display(),
                way.threads,
                way.files,
                if way.sync { "synced" } else { "not synced" },
                seconds * 1e3,
                (PIECES * PIECE) as f64 / seconds / 1e9,
                one / seconds
            );
        }
    }
    Ok(())
}
