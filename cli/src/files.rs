//! Files as the container's bytes: reading by position, writing in order.

use std::fs::File;
use std::io::{self, Write as _};

use tersa_core::format::{ReadAt, Sink};

/// Fills `buf` from `offset` on without moving a file position, so that threads can share the file.
///
/// # Errors
/// If not all of `buf` could be filled.
#[cfg(unix)]
pub fn read_exact_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

/// Writes all of `bytes` at `offset` without moving a file position.
///
/// # Errors
/// If not all of them could be written.
#[cfg(unix)]
pub fn write_all_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// A file read by position.
pub struct FileBytes {
    file: File,
    len: u64,
}

impl FileBytes {
    /// Takes the file and asks for its length once.
    ///
    /// # Errors
    /// If the length cannot be found out.
    pub fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }
}

impl ReadAt for FileBytes {
    type Error = io::Error;

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        read_exact_at(&self.file, offset, buf)
    }
}

/// A file written in order, in large pieces.
pub struct FileSink<'a>(io::BufWriter<&'a File>);

impl<'a> FileSink<'a> {
    /// Starts at the file's beginning, which must be empty.
    #[must_use]
    pub fn new(file: &'a File) -> Self {
        Self(io::BufWriter::with_capacity(1 << 20, file))
    }

    /// Sends what is buffered to the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Sink for FileSink<'_> {
    type Error = io::Error;

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
}
