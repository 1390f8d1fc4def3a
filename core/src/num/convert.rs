//! Conversion between stored elements and `f32`.
