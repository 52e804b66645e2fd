//! Signals and exit codes; a table of contents.

fn main() {}
