//! Status codes, the caller's error struct, and the door that every call goes through.

use std::any::Any;
use std::ffi::c_char;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tersa_core::attention::AttentionError;
use tersa_core::codec::{CodecError, SideError, SpecError, StoredSideError};
use tersa_core::format::{FormatError, ReadError, Region, WriteError};
use tersa_core::kv::KvError;
use tersa_core::pq::PqError;

/// What a call returns. Numbers are never reused; a caller must expect numbers that its header does not know.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum tersa_status {
    /// Done.
    TERSA_OK = 0,
    /// A pointer that must not be NULL is.
    TERSA_ERR_NULL = 1,
    /// A number, range or shape that the call cannot serve, or a pointer that is not aligned.
    TERSA_ERR_ARGUMENT = 2,
    /// `struct_size` is not one that this library knows, or fields that it does not know are not zero.
    TERSA_ERR_STRUCT_SIZE = 3,
    /// A buffer of the caller is too short. Where the call has a size output, it says what is needed.
    TERSA_ERR_SHORT_BUFFER = 4,
    /// A buffer to write overlaps one to read.
    TERSA_ERR_OVERLAP = 5,
    /// The text is no codec specification or preset.
    TERSA_ERR_SPEC = 6,
    /// The codec cannot serve rows of that type or size, or this platform lacks what the call needs.
    TERSA_ERR_UNSUPPORTED = 7,
    /// Bytes are damaged, cut short, or not what they should be.
    TERSA_ERR_CORRUPT = 8,
    /// Written by a later version that this library cannot read.
    TERSA_ERR_VERSION = 9,
    /// Reading or writing a file failed, or a callback of the caller did.
    TERSA_ERR_IO = 10,
    /// No memory.
    TERSA_ERR_MEMORY = 11,
    /// There is no such stream, head, job.
    TERSA_ERR_NOT_FOUND = 12,
    /// The handle is not in a state for this call: a finished writer, a stream that was closed by a short chunk.
    TERSA_ERR_STATE = 13,
    /// The pool's queue is full: take completions, then submit again.
    TERSA_ERR_BUSY = 14,
    /// The job was cancelled.
    TERSA_ERR_CANCELLED = 15,
    /// The bytes were encoded by another codec, or by an index of other parameters, than the one they were given to.
    TERSA_ERR_CODEC = 16,
    /// A defect of this library; the handle that was in use should be destroyed.
    TERSA_ERR_PANIC = 17,
}

use tersa_status as S;

/// Why a call failed, in memory of the caller. Every call fills it, with `TERSA_OK` and an empty text if all went well.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_error {
    /// The status that was returned.
    pub code: i32,
    /// UTF-8, ended by a zero byte, cut to fit.
    pub message: [c_char; 256],
}

impl Default for tersa_error {
    fn default() -> Self {
        Self { code: 0, message: [0; 256] }
    }
}

/// A status with its text.
pub(crate) struct Failure {
    pub(crate) status: tersa_status,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: tersa_status, text: fmt::Arguments<'_>) -> Self {
        Self { status, message: text.to_string() }
    }

    /// The same failure, its text led by where it happened.
    pub(crate) fn at(self, place: fmt::Arguments<'_>) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }

    /// As the caller gets it: the text cut at a character if it must be.
    pub(crate) fn to_error(&self) -> tersa_error {
        let mut error = tersa_error { code: self.status as i32, ..tersa_error::default() };
        let mut n = self.message.len().min(error.message.len() - 1);
        while !self.message.is_char_boundary(n) {
            n -= 1;
        }
        for (to, from) in error.message.iter_mut().zip(&self.message.as_bytes()[..n]) {
            *to = c_char::from_ne_bytes([*from]);
        }
        error
    }
}

/// `fail!(STATUS, "text {}", value)`: an `Err` with that status and text.
macro_rules! fail {
    ($status:ident, $($text:tt)+) => {
        Err($crate::status::Failure::new($crate::status::tersa_status::$status, format_args!($($text)+)))
    };
}
pub(crate) use fail;

/// Runs the body of a call: what it reports goes to `err`, a panic ends here.
pub(crate) fn guard(err: *mut tersa_error, body: impl FnOnce() -> Result<(), Failure>) -> tersa_status {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(panicked(&*panic)));
    let (status, error) = match &result {
        Ok(()) => (S::TERSA_OK, tersa_error::default()),
        Err(failure) => (failure.status, failure.to_error()),
    };
    if !err.is_null() && err.is_aligned() {
        // SAFETY: by the contract of every call `err` is NULL or points to a struct of the caller.
        unsafe { err.write(error) };
    }
    status
}

pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    Failure::new(S::TERSA_ERR_PANIC, format_args!("a defect of tersa: {}", text.unwrap_or("no text")))
}

impl From<CodecError> for Failure {
    fn from(e: CodecError) -> Self {
        let status = match e {
            CodecError::ShortBuffer { .. } => S::TERSA_ERR_SHORT_BUFFER,
            CodecError::Corrupt { .. } => S::TERSA_ERR_CORRUPT,
            _ => S::TERSA_ERR_UNSUPPORTED,
        };
        Self::new(status, format_args!("{e}"))
    }
}

impl From<AttentionError> for Failure {
    fn from(e: AttentionError) -> Self {
        let status = match e {
            AttentionError::OutOfBounds { .. } => S::TERSA_ERR_SHORT_BUFFER,
            AttentionError::Type { .. } => S::TERSA_ERR_UNSUPPORTED,
            _ => S::TERSA_ERR_ARGUMENT,
        };
        Self::new(status, format_args!("{e}"))
    }
}

impl From<PqError> for Failure {
    fn from(e: PqError) -> Self {
        Self::new(S::TERSA_ERR_ARGUMENT, format_args!("{e}"))
    }
}

impl From<KvError> for Failure {
    fn from(e: KvError) -> Self {
        let status = match e {
            KvError::OtherIndex { .. } => S::TERSA_ERR_CODEC,
            KvError::Corrupt { .. } => S::TERSA_ERR_CORRUPT,
            KvError::Untrained => S::TERSA_ERR_STATE,
            KvError::Attention(e) => return e.into(),
            _ => S::TERSA_ERR_ARGUMENT,
        };
        Self::new(status, format_args!("{e}"))
    }
}

impl From<SpecError> for Failure {
    fn from(e: SpecError) -> Self {
        Self::new(S::TERSA_ERR_SPEC, format_args!("{e}"))
    }
}

impl From<SideError> for Failure {
    fn from(e: SideError) -> Self {
        Self::new(S::TERSA_ERR_UNSUPPORTED, format_args!("{e}"))
    }
}

impl From<StoredSideError> for Failure {
    fn from(e: StoredSideError) -> Self {
        Self::new(S::TERSA_ERR_CORRUPT, format_args!("{e}"))
    }
}

impl From<FormatError> for Failure {
    fn from(e: FormatError) -> Self {
        let status = match e {
            FormatError::UnknownMajor { .. } | FormatError::UnknownCriticalSection { .. } => {
                S::TERSA_ERR_VERSION
            }
            FormatError::OutOfMemory { .. } => S::TERSA_ERR_MEMORY,
            FormatError::NoSuch { .. } => S::TERSA_ERR_NOT_FOUND,
            _ => S::TERSA_ERR_CORRUPT,
        };
        match e {
            FormatError::NoMagic { region: Region::Header }
            | FormatError::Short { region: Region::Header, .. } => {
                Self::new(S::TERSA_ERR_CORRUPT, format_args!("not a .tersa container"))
            }
            e => Self::new(status, format_args!("{e}")),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::new(S::TERSA_ERR_IO, format_args!("{e}"))
    }
}

impl From<std::convert::Infallible> for Failure {
    fn from(e: std::convert::Infallible) -> Self {
        match e {}
    }
}

impl<E: Into<Self>> From<ReadError<E>> for Failure {
    fn from(e: ReadError<E>) -> Self {
        match e {
            ReadError::Io(e) => e.into(),
            ReadError::Format(e) => e.into(),
        }
    }
}

impl<E: Into<Self>> From<WriteError<E>> for Failure {
    fn from(e: WriteError<E>) -> Self {
        match e {
            WriteError::Io(e) => e.into(),
            // What a caller described does not fit the format: that is an argument, not damage.
            WriteError::Format(e) => Self::new(S::TERSA_ERR_ARGUMENT, format_args!("{e}")),
        }
    }
}

/// What a status means, in English; never NULL, never to be freed. Unknown numbers have a text too.
#[unsafe(no_mangle)]
pub extern "C" fn tersa_status_text(status: i32) -> *const c_char {
    let text = match status {
        0 => c"done",
        1 => c"a pointer that must not be NULL is",
        2 => c"an argument is out of range",
        3 => c"struct_size does not fit this library",
        4 => c"a buffer is too short",
        5 => c"buffers overlap",
        6 => c"not a codec specification",
        7 => c"not supported",
        8 => c"damaged bytes",
        9 => c"written by a later version",
        10 => c"input or output failed",
        11 => c"out of memory",
        12 => c"no such thing",
        13 => c"not in this state",
        14 => c"the queue is full",
        15 => c"cancelled",
        16 => c"encoded by another codec",
        17 => c"a defect of tersa",
        _ => c"unknown status",
    };
    text.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_a_character_and_ended() {
        let text = |failure: &Failure| {
            let error = failure.to_error();
            // SAFETY: ended by a zero, which is what is tested.
            unsafe { std::ffi::CStr::from_ptr(error.message.as_ptr()) }.to_str().unwrap().to_owned()
        };
        let long = "é".repeat(200);
        assert_eq!(text(&Failure::new(S::TERSA_ERR_IO, format_args!("x{long}"))).len(), 255);
        assert_eq!(text(&Failure::new(S::TERSA_ERR_IO, format_args!("{long}"))).len(), 254);
    }

    #[test]
    fn a_panic_becomes_a_status() {
        let mut err = tersa_error::default();
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let status = guard(&raw mut err, || panic!("boom {}", 7));
        std::panic::set_hook(hook);
        assert_eq!((status, err.code), (S::TERSA_ERR_PANIC, 17));
        assert_eq!(guard(std::ptr::null_mut(), || Ok(())), S::TERSA_OK);
    }
}
