//! The element types that caches are stored in.

/// How the elements of a tensor are stored. All types are little-endian.
///
/// The block types are llama.cpp's: [`block_len`](DType::block_len) consecutive elements of a row share
/// [`block_bytes`](DType::block_bytes) bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary32.
    F32 = 1,
    /// IEEE 754 binary16.
    F16 = 2,
    /// bfloat16: the upper half of binary32.
    Bf16 = 3,
    /// OCP 8-bit float, 4 exponent and 3 mantissa bits, no infinities (`e4m3fn`).
    F8E4m3 = 4,
    /// OCP 8-bit float, 5 exponent and 2 mantissa bits, IEEE-like.
    F8E5m2 = 5,
    /// 32 elements: f16 scale, 32 signed bytes.
    Q8_0 = 16,
    /// 32 elements: f16 scale, 16 bytes of nibbles biased by 8.
    Q4_0 = 17,
    /// 32 elements: f16 scale, f16 minimum, 16 bytes of nibbles.
    Q4_1 = 18,
    /// 32 elements: f16 scale, 32 fifth bits, 16 bytes of nibbles, biased by 16.
    Q5_0 = 19,
    /// 32 elements: f16 scale, f16 minimum, 32 fifth bits, 16 bytes of nibbles.
    Q5_1 = 20,
    /// 32 elements: f16 scale, 16 bytes of nibbles that index a fixed 16-entry table.
    Iq4Nl = 21,
}

impl DType {
    /// Every type, in order of code.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::F8E4m3,
        Self::F8E5m2,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Iq4Nl,
    ];

    /// The number that stands for this type in files; never reused.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The type with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.code() == code)
    }

    /// The field's name for the type, lower case: `f16`, `f8_e4m3`, `q8_0`, ...
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F8E4m3 => "f8_e4m3",
            Self::F8E5m2 => "f8_e5m2",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Iq4Nl => "iq4_nl",
        }
    }

    /// The type with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Elements that are stored together: 1 for plain types, 32 for block types.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::F8E4m3 | Self::F8E5m2 => 1,
            _ => 32,
        }
    }

    /// Bytes of one block of [`block_len`](Self::block_len) elements.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::F8E4m3 | Self::F8E5m2 => 1,
            Self::Q8_0 => 34,
            Self::Q4_0 | Self::Iq4Nl => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
        }
    }

    /// Whether single elements have bytes of their own.
    #[must_use]
    pub const fn is_plain(self) -> bool {
        self.block_len() == 1
    }

    /// Bytes of `n` consecutive elements, or `None` if `n` does not fill whole blocks or the size overflows.
    #[must_use]
    pub const fn bytes_for(self, n: usize) -> Option<usize> {
        if !n.is_multiple_of(self.block_len()) {
            None
        } else {
            (n / self.block_len()).checked_mul(self.block_bytes())
        }
    }
}

impl core::fmt::Display for DType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_round_trip() {
        for t in DType::ALL {
            assert_eq!(DType::from_code(t.code()), Some(t));
            assert_eq!(DType::from_name(t.name()), Some(t));
        }
        assert_eq!(DType::from_code(0), None);
        assert_eq!(DType::from_name("int3"), None);
    }

    #[test]
    fn sizes_follow_the_block_layouts() {
        assert_eq!(DType::Q8_0.bytes_for(64), Some(68));
        assert_eq!(DType::Q4_0.bytes_for(64), Some(36));
        assert_eq!(DType::Q4_0.bytes_for(33), None);
        assert_eq!(DType::F16.bytes_for(33), Some(66));
        assert_eq!(DType::F32.bytes_for(usize::MAX), None);
    }
}
