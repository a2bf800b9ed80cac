//! The HTTP door, one subject per file. Most of them talk to it without a socket, over a backend in
//! memory.

mod buckets;
mod documents;
mod errors;
mod keys;
mod locks;
mod many;
mod roles;
mod support;
mod wire;
