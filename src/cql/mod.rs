//! CQL, the language: text to syntax tree, types and their bytes, schemas, and the typed
//! operations that a statement means. Pure: no IO, no clock, no randomness, no socket.
//!
//! ```text
//! text ─ lexer ─▶ tokens ─ parser ─▶ ast ─ plan (against a schema) ─▶ what to read or write
//! ```
//!
//! What a client sends is text of any form and bytes of any length: nothing here recurses or
//! allocates by what the text claims, only by what it holds.

pub mod ast;
pub mod conditions;
pub mod describe;
pub mod functions;
pub mod index;
pub mod json;
mod lexer;
pub mod modify;
pub mod number;
pub mod options;
pub mod order;
mod parser;
mod print;
pub mod relations;
pub mod roles;
pub mod rows;
pub mod schema;
pub mod select;
pub mod similarity;
pub mod term;
#[cfg(test)]
mod tests;
pub mod time;
pub mod types;
pub mod value;

pub use lexer::SyntaxError;
pub use parser::{parse, parse_term};
