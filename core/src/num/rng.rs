//! Seeded random numbers whose streams never change.
