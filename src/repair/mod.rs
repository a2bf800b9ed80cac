//! What a node does in the background so that replicas come together again without an operator.

pub mod hints;
