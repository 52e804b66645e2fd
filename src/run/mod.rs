//! The running build: events, cancellation, journal.

pub mod events;
