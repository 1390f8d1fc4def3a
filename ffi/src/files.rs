//! A container's bytes: files, memory and callbacks of the caller.

use std::ffi::c_void;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tersa_core::format::{ReadAt, Sink};

use crate::status::{Failure, fail, tersa_status as S};

/// Reads `len` bytes from `offset` on into `buf`; returns 0 if all of them are there now, anything else to fail. `context` is what the
/// caller gave along. Must be fit to be called by as many threads as use the reader.
pub type tersa_read_fn =
    Option<unsafe extern "C" fn(context: *mut c_void, offset: u64, buf: *mut c_void, len: usize) -> i32>;

/// Takes the next `len` bytes; returns 0 if all of them were taken, anything else to fail.
pub type tersa_write_fn =
    Option<unsafe extern "C" fn(context: *mut c_void, bytes: *const c_void, len: usize) -> i32>;

/// Where a reader's bytes come from.
pub(crate) enum Bytes {
    File {
        file: File,
        len: u64,
    },
    Memory {
        start: *const u8,
        len: usize,
    },
    Callback {
        read: unsafe extern "C" fn(*mut c_void, u64, *mut c_void, usize) -> i32,
        context: *mut c_void,
        len: u64,
    },
}

// SAFETY: memory is only read, and the caller promises that nobody writes to it; the callback must be fit for threads.
unsafe impl Send for Bytes {}
// SAFETY: the same.
unsafe impl Sync for Bytes {}

impl Bytes {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let named = |e: io::Error| Failure::from(e).at(format_args!("{}", path.display()));
        let file = File::open(path).map_err(named)?;
        let about = file.metadata().map_err(named)?;
        if !about.is_file() {
            return fail!(TERSA_ERR_IO, "{}: not a file", path.display());
        }
        Ok(Self::File { file, len: about.len() })
    }
}

impl ReadAt for Bytes {
    type Error = Failure;

    fn len(&self) -> Result<u64, Failure> {
        Ok(match self {
            Self::File { len, .. } | Self::Callback { len, .. } => *len,
            Self::Memory { len, .. } => *len as u64,
        })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Failure> {
        match self {
            Self::File { file, .. } => Ok(read_exact_at(file, offset, buf)?),
            Self::Memory { start, len } => {
                // SAFETY: the caller of `tersa_reader_open_memory` promised that they stay.
                let bytes = unsafe { std::slice::from_raw_parts(*start, *len) };
                bytes
                    .read_at(offset, buf)
                    .map_err(|e| Failure::new(S::TERSA_ERR_CORRUPT, format_args!("{e}")))
            }
            Self::Callback { read, context, .. } => {
                // SAFETY: the caller of `tersa_reader_open_callback` promised what the type says.
                let status = unsafe { read(*context, offset, buf.as_mut_ptr().cast(), buf.len()) };
                if status != 0 {
                    return fail!(
                        TERSA_ERR_IO,
                        "the read callback returned {status} for {} bytes at {offset}",
                        buf.len()
                    );
                }
                Ok(())
            }
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

/// Where a writer's bytes go.
pub(crate) enum Target {
    File(Temporary),
    Callback { write: unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> i32, context: *mut c_void },
}

impl Sink for Target {
    type Error = Failure;

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::File(file) => Ok(file.out.write_all(bytes)?),
            Self::Callback { write, context } => {
                // SAFETY: the caller of `tersa_writer_create_callback` promised what the type says.
                let status = unsafe { write(*context, bytes.as_ptr().cast(), bytes.len()) };
                if status != 0 {
                    return fail!(
                        TERSA_ERR_IO,
                        "the write callback returned {status} for {} bytes",
                        bytes.len()
                    );
                }
                Ok(())
            }
        }
    }
}

/// A file beside its final name; removed unless it is kept.
pub(crate) struct Temporary {
    out: io::BufWriter<File>,
    path: PathBuf,
    name: PathBuf,
    kept: bool,
}

impl Temporary {
    pub(crate) fn beside(name: &Path) -> Result<Self, Failure> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Some(last) = name.file_name() else {
            return fail!(TERSA_ERR_ARGUMENT, "{}: not the name of a file", name.display());
        };
        loop {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(last);
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            hidden.push(format!(".{}-{n}.tmp", std::process::id()));
            let path = name.with_file_name(hidden);
            match File::options().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let out = io::BufWriter::with_capacity(1 << 20, file);
                    return Ok(Self { out, path, name: name.to_owned(), kept: false });
                }
                // Left by a process that is gone.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Failure::from(e).at(format_args!("{}", path.display()))),
            }
        }
    }

    /// Syncs the bytes and gives them their name, in place of what had it.
    pub(crate) fn keep(mut self) -> Result<(), Failure> {
        let placed = self.out.flush().and_then(|()| {
            self.out.get_ref().sync_all()?;
            fs::rename(&self.path, &self.name)?;
            self.kept = true;
            // The name is safe once its folder is.
            let folder = self.name.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()
        });
        placed.map_err(|e| Failure::from(e).at(format_args!("{}", self.name.display())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing more can be done about a file that stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}
