//! Named arrays inside a file, whatever container they came in.

use tersa_core::num::DType;

/// An array with its place in a source file. Its bytes were checked to lie within the file.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    /// As the container calls it.
    pub(crate) name: String,
    /// Index of the source file.
    pub(crate) file: usize,
    /// Byte offset of the first element.
    pub(crate) offset: usize,
    /// Element type, or the name of one that caches are not kept in.
    pub(crate) dtype: Result<DType, String>,
    /// Sizes of the axes, slowest first as the container lists them.
    pub(crate) shape: Vec<usize>,
    /// Distances along the axes, in elements.
    pub(crate) strides: Vec<usize>,
}

impl Tensor {
    pub(crate) fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Whether elements lie in the order of the axes, without gaps.
    pub(crate) fn is_row_major(&self) -> bool {
        self.strides == row_major(&self.shape)
    }
}

/// Strides of an array whose last axis is the fastest. Sizes were checked against a file, except those of empty
/// arrays, whose strides nobody follows: they saturate.
pub(crate) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

/// Strides of an array whose first axis is the fastest.
pub(crate) fn column_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in 1..shape.len() {
        strides[i] = strides[i - 1].saturating_mul(shape[i - 1]);
    }
    strides
}

/// Bytes of an array, if that is a number.
pub(crate) fn len_bytes(shape: &[usize], element: usize) -> Option<usize> {
    shape.iter().try_fold(element, |n, &axis| n.checked_mul(axis))
}
