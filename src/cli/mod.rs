//! The commands of the `henge` program.
