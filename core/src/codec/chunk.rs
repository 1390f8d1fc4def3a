//! Chunks: the tiles of all heads of a token range, one after another.
