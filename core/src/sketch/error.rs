//! What can be wrong with a call on a sketch.

/// Why a sketch refused a call. Nothing was changed then.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum SketchError {
    /// No rows, or 2^32 - 1 of them.
    Rows {
        /// Rows.
        rows: u32,
    },
    /// No buckets.
    Buckets,
    /// A threshold, half-life or factor that is negative, zero where it must not be, or not finite.
    Parameter {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: f32,
    },
    /// A weight that is negative, above 2^60 or NaN.
    Weight {
        /// Its place.
        index: usize,
        /// Its value.
        weight: f32,
    },
    /// As many weights or outputs as ids are needed.
    Length {
        /// Ids.
        expected: usize,
        /// What there are.
        got: usize,
    },
    /// The sketches differ in what merging needs to be equal.
    Unlike {
        /// In what.
        what: &'static str,
    },
    /// The bytes are no sketch.
    Corrupt {
        /// In what.
        what: &'static str,
    },
}

impl core::fmt::Display for SketchError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Rows { rows } => write!(f, "a sketch cannot share out {rows} rows"),
            Self::Buckets => write!(f, "a sketch needs at least one bucket"),
            Self::Parameter { name, value } => write!(f, "{name} cannot be {value}"),
            Self::Weight { index, weight } => write!(f, "weight {index} is {weight}: not in 0..=2^60"),
            Self::Length { expected, got } => write!(f, "{expected} ids, but {got} weights or outputs"),
            Self::Unlike { what } => write!(f, "sketches of another {what} cannot be merged"),
            Self::Corrupt { what } => write!(f, "not a sketch: {what}"),
        }
    }
}

impl core::error::Error for SketchError {}
