//! Reading and writing little-endian fields on checked ranges.

use alloc::vec::Vec;

use super::error::{FormatError, Region};

/// Takes fields off the front of a region's bytes.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    region: Region,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(region: Region, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, region }
    }

    pub(super) fn bytes(&mut self, n: usize) -> Result<&'a [u8], FormatError> {
        let short = FormatError::Short { region: self.region, needed: n as u64, got: self.rest.len() as u64 };
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let short = FormatError::Short { region: self.region, needed: N as u64, got: self.rest.len() as u64 };
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn f64(&mut self) -> Result<f64, FormatError> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// `n` bytes that must be zero.
    pub(super) fn zeros(&mut self, n: usize) -> Result<(), FormatError> {
        if self.bytes(n)?.iter().all(|&b| b == 0) {
            Ok(())
        } else {
            Err(FormatError::NotZero { region: self.region })
        }
    }

    /// `n` bytes of UTF-8.
    pub(super) fn text(&mut self, n: usize) -> Result<&'a str, FormatError> {
        core::str::from_utf8(self.bytes(n)?).map_err(|_| FormatError::NotUtf8 { region: self.region })
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), FormatError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(FormatError::Excess { region: self.region, excess: self.rest.len() as u64 })
        }
    }

    /// The bytes not taken yet.
    pub(super) const fn remaining(&self) -> usize {
        self.rest.len()
    }
}

/// Appends little-endian fields.
pub(super) trait PutFields {
    fn put_u16(&mut self, x: u16);
    fn put_u32(&mut self, x: u32);
    fn put_u64(&mut self, x: u64);
    fn put_f32(&mut self, x: f32);
    fn put_f64(&mut self, x: f64);
    fn put_zeros(&mut self, n: usize);
}

impl PutFields for Vec<u8> {
    fn put_u16(&mut self, x: u16) {
        self.extend_from_slice(&x.to_le_bytes());
    }
    fn put_u32(&mut self, x: u32) {
        self.extend_from_slice(&x.to_le_bytes());
    }
    fn put_u64(&mut self, x: u64) {
        self.extend_from_slice(&x.to_le_bytes());
    }
    fn put_f32(&mut self, x: f32) {
        self.extend_from_slice(&x.to_le_bytes());
    }
    fn put_f64(&mut self, x: f64) {
        self.extend_from_slice(&x.to_le_bytes());
    }
    fn put_zeros(&mut self, n: usize) {
        self.resize(self.len() + n, 0);
    }
}
