//! A small client of the HTTP door.
