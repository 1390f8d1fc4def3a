//! Files as the container's bytes: reading by position, writing in order.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use tersa_core::format::{ReadAt, Sink, SkipSink};

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

/// Bytes between two rounds of [`Writeback`]: few enough that little is left for the end, enough to be worth a wait
/// for the device.
const WRITEBACK_BYTES: u64 = 16 << 20;

/// Sends files to the device while they are still being written, so that the sync at the end finds little to wait
/// for: otherwise coding and the device would work one after the other.
pub struct Writeback<'a> {
    files: Vec<&'a File>,
    /// Bytes since the last round began.
    waiting: u64,
    /// Starts a round; made with the first one, since most files are too small to need any.
    thread: Option<(SyncSender<()>, JoinHandle<io::Result<()>>)>,
}

impl<'a> Writeback<'a> {
    /// For these files.
    #[must_use]
    pub fn new(files: &[&'a File]) -> Self {
        Self { files: files.to_vec(), waiting: 0, thread: None }
    }

    /// So many bytes more have been written to the files.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn wrote(&mut self, bytes: u64) -> io::Result<()> {
        self.waiting += bytes;
        if self.waiting < WRITEBACK_BYTES {
            return Ok(());
        }
        let (start, _) = match &self.thread {
            Some(thread) => thread,
            None => self.thread.insert(sync_in_background(&self.files)?),
        };
        // While a round runs and the next one waits there is nothing to add; after an error neither.
        if start.try_send(()).is_ok() {
            self.waiting = 0;
        }
        Ok(())
    }

    /// Ends the thread. Does not sync what was written after its last round.
    ///
    /// # Errors
    /// If the device refused some bytes. Whoever syncs the file next is not told again.
    pub fn finish(self) -> io::Result<()> {
        let Some((start, thread)) = self.thread else { return Ok(()) };
        drop(start);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn sync_in_background(files: &[&File]) -> io::Result<(SyncSender<()>, JoinHandle<io::Result<()>>)> {
    let files = files.iter().map(|f| f.try_clone()).collect::<io::Result<Vec<File>>>()?;
    let (start, rounds) = sync_channel(1);
    let sync = move || rounds.iter().try_for_each(|()| files.iter().try_for_each(File::sync_data));
    Ok((start, std::thread::Builder::new().name("writeback".into()).spawn(sync)?))
}

/// A file written in order, in large pieces, but for the room that is left for others to write.
pub struct FileSink<'a> {
    file: &'a File,
    /// Where `waiting` belongs.
    position: u64,
    waiting: Vec<u8>,
    writeback: Writeback<'a>,
}

/// Bytes that wait to be written together.
const PIECE: usize = 1 << 20;

impl<'a> FileSink<'a> {
    /// Starts at the beginning of the file, which must be empty.
    #[must_use]
    pub fn new(file: &'a File) -> Self {
        Self { file, position: 0, waiting: Vec::new(), writeback: Writeback::new(&[file]) }
    }

    /// Sends what waits to the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(mut self) -> io::Result<()> {
        self.write_waiting()?;
        self.writeback.finish()
    }

    fn write_waiting(&mut self) -> io::Result<()> {
        write_all_at(self.file, self.position, &self.waiting)?;
        self.position += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }
}

impl Sink for FileSink<'_> {
    type Error = io::Error;

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PIECE {
            self.write_waiting()?;
        }
        self.writeback.wrote(bytes.len() as u64)
    }
}

impl SkipSink for FileSink<'_> {
    fn skip(&mut self, len: u64) -> io::Result<()> {
        self.write_waiting()?;
        self.position += len;
        self.writeback.wrote(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_synced_while_writing_are_all_there() {
        let file = tempfile::tempfile().unwrap();
        let mut sink = FileSink::new(&file);
        let piece: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
        for _ in 0..12 {
            sink.write(&piece).unwrap();
        }
        assert!(sink.writeback.thread.is_some(), "two rounds were due");
        sink.flush().unwrap();
        let mut back = vec![0; piece.len()];
        for i in 0..12 {
            read_exact_at(&file, i * piece.len() as u64, &mut back).unwrap();
            assert_eq!(back, piece);
        }
        assert_eq!(file.metadata().unwrap().len(), 12 * piece.len() as u64);
    }

    #[test]
    fn room_is_left_for_others_and_nothing_else_is_disturbed() {
        let file = tempfile::tempfile().unwrap();
        let mut sink = FileSink::new(&file);
        sink.write(b"ab").unwrap();
        write_all_at(&file, 2, b"others").unwrap();
        sink.skip(6).unwrap();
        sink.skip(2).unwrap();
        sink.write(b"cd").unwrap();
        sink.flush().unwrap();
        let mut back = [0; 12];
        read_exact_at(&file, 0, &mut back).unwrap();
        assert_eq!(&back, b"abothers\0\0cd");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_device_refuses_in_the_background_is_an_error_at_the_end() {
        // Linux refuses to sync this device, which stands for any error of a sync.
        let device = File::options().write(true).open("/dev/null").unwrap();
        let mut writeback = Writeback::new(&[&device]);
        writeback.wrote(WRITEBACK_BYTES - 1).unwrap();
        assert!(writeback.thread.is_none(), "too little for a thread");
        writeback.wrote(1).unwrap();
        writeback.wrote(WRITEBACK_BYTES).unwrap();
        assert!(writeback.finish().is_err());
    }
}
