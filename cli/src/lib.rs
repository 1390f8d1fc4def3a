//! The `tersa` command as a library, so that tests and fuzz targets reach the readers and writers of other tools' files.

pub mod dump;
