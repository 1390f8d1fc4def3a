//! Product quantization.
