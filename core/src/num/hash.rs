//! Hashes with published test vectors.
