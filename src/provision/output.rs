//! What a step's program prints: reported line by line, and its end kept for an error.

use std::collections::VecDeque;

use crate::plan::Step;
use crate::run::{Events, Run};
use crate::text::Lines;

/// How many of a failed step's last lines the error shows.
const LAST_LINES: usize = 20;

/// Reports the lines of one step, secrets masked.
pub(super) struct Report<'o> {
    pub events: &'o Events,
    pub step: &'o str,
    last: VecDeque<String>,
}

impl<'o> Report<'o> {
    pub fn new(run: &'o Run, step: &'o Step) -> Self {
        Report {
            events: &run.events,
            step: &step.name,
            last: VecDeque::new(),
        }
    }

    pub fn line(&mut self, line: &str) {
        self.events.output(self.step, line);
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(self.events.masked(line));
    }

    /// The last lines.
    pub fn into_last(self) -> Vec<String> {
        self.last.into()
    }
}

/// Reports output that comes in pieces.
pub(super) struct Pieces<'o> {
    report: Report<'o>,
    lines: Lines,
}

impl<'o> Pieces<'o> {
    pub fn new(run: &'o Run, step: &'o Step) -> Self {
        Pieces {
            report: Report::new(run, step),
            lines: Lines::default(),
        }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.lines.feed(bytes, |line| self.report.line(line));
    }

    /// Reports what came without a line end, and returns the last lines.
    pub fn end(mut self) -> Vec<String> {
        self.lines.flush(|line| self.report.line(line));
        self.report.into_last()
    }
}
