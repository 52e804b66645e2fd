//! What `imgbuild doctor` finds.

use crate::text::printable;

/// What was found about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The thing.
    pub what: String,
    pub state: State,
    /// How it is, and what to do if it is not as it should be.
    pub told: String,
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Good,
    /// Works, but worse than it could.
    Fair,
    Missing,
}

impl Finding {
    /// A thing that is as it should be.
    pub fn good(what: impl Into<String>, told: impl Into<String>) -> Self {
        Finding::new(what, State::Good, told)
    }

    /// A thing that works, but worse than it could.
    pub fn fair(what: impl Into<String>, told: impl Into<String>) -> Self {
        Finding::new(what, State::Fair, told)
    }

    /// A thing that is needed and not there.
    pub fn missing(what: impl Into<String>, told: impl Into<String>) -> Self {
        Finding::new(what, State::Missing, told)
    }

    fn new(what: impl Into<String>, state: State, told: impl Into<String>) -> Self {
        // A server's own words may be in it.
        Finding {
            what: what.into(),
            state,
            told: printable(&told.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_cannot_move_a_terminal_s_cursor() {
        let finding = Finding::missing("node", "did you mean `\u{1b}[2Jpve`?");
        assert_eq!(finding.told, "did you mean `pve`?");
    }
}
