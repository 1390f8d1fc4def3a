//! Rotations that spread energy evenly over coordinates, and the scalar grids that fit what comes out.
