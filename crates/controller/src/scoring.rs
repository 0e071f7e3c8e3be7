//! The names of placement's score terms, for those who check what operators weigh.

/// Terms that `cluster.spec.weights` may name.
pub const TERMS: &[&str] = &[];
