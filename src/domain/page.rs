//! Why: a long list is read a page at a time, and a page token cannot be forged or used for another question. Never holds state for a reader.

/// Which part of a list a Show call asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// How many at most; 0: the default, larger than the largest: the largest.
    pub size: i32,
    /// From the page before; empty: the first.
    pub token: String,
}
