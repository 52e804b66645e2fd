//! How all runs ended.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::rows::{Call, Trouble};

/// How many rows ended so.
pub fn count(outcomes: &[(u32, &str, char)]) -> BTreeMap<char, u32> {
    let mut counts = BTreeMap::new();
    for (.., letter) in outcomes {
        *counts.entry(*letter).or_default() += 1;
    }
    counts
}

/// Calls and faults, with how each ended.
pub fn table(rows: &[(Call, Trouble)], outcomes: &[(u32, &'static str, char)]) -> String {
    let mut names: Vec<&str> = vec![];
    for (_, name, _) in outcomes {
        if !names.contains(name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    let mut text = format!("{:52}", "");
    let _ = writeln!(text, "{}", names.join(" "));
    let mut calls: Vec<_> = rows.iter().map(|(call, _)| call).collect();
    calls.dedup_by_key(|call| call.at);
    for call in calls {
        let mut line = format!("{:52}", call.name());
        for name in &names {
            let found = outcomes
                .iter()
                .find(|(at, other, _)| *at == call.at && other == name);
            let letter = found.map_or(' ', |(.., letter)| *letter);
            let _ = write!(line, "{letter:<width$}", width = name.len() + 1);
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}
