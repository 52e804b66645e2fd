//! Small helpers for text that comes from elsewhere.

/// A line longer than this is shown and logged in pieces, so that output without newlines does not fill the memory.
const LONGEST_LINE: usize = 8 * 1024;

/// Cuts a stream of bytes into lines of printable text.
#[derive(Debug, Default, Clone)]
pub struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Takes more of the stream and hands over each line that is complete.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.pending.len() >= LONGEST_LINE {
                self.flush(&mut each);
            }
        }
    }

    /// Hands over what is left when the stream ended without a newline.
    pub fn flush(&mut self, mut each: impl FnMut(&str)) {
        if self.pending.is_empty() {
            return;
        }
        for piece in self.pending.chunks(LONGEST_LINE) {
            let text = String::from_utf8_lossy(piece);
            // Of a line that redraws itself (`\r`), what stands at the end is what a terminal would show.
            let line = text.trim_end_matches(['\n', '\r']);
            each(&printable(line.rsplit('\r').next().unwrap_or_default()));
        }
        self.pending.clear();
    }
}

/// `text` without what would move a terminal's cursor or change its colours; line ends stay.
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\n' | '\t' => clean.push(c),
            // An escape sequence `ESC [ … letter` (ECMA-48, CSI) goes as a whole.
            '\u{1b}' if rest.peek() == Some(&'[') => {
                rest.next();
                for c in rest.by_ref() {
                    if ('@'..='~').contains(&c) {
                        break;
                    }
                }
            }
            c if c.is_control() => {}
            c => clean.push(c),
        }
    }
    clean
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// "did you mean", or the list of what there is.
pub fn suggest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().filter(|name| !name.is_empty()).collect();
    let best = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((likeness, candidate)) if likeness > 0.8 => format!("did you mean `{candidate}`?"),
        _ if known.is_empty() => "none is known here".to_owned(),
        _ => format!("known here: {}", known.join(", ")),
    }
}

/// Whether it can be the name of a node, storage, bridge or the like on Proxmox VE: what all of them allow together.
pub fn is_plain_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(known)
}

/// Whether `name` is a host's name of one part: lower-case letters, digits and `-`, at most 63, no `-` at the ends.
pub fn is_dns_label(name: &str) -> bool {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(letters)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Seconds for people, in the largest unit that leaves something before the point.
pub fn span(seconds: f64) -> String {
    let units = [(86_400.0, "d"), (3600.0, "h"), (60.0, "min")];
    let unit = units.into_iter().find(|(length, _)| seconds >= *length);
    match unit {
        Some((length, name)) => format!("{:.0} {name}", (seconds / length).floor()),
        None => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut seen = vec![];
        for chunk in chunks {
            lines.feed(chunk, |line| seen.push(line.to_owned()));
        }
        lines.flush(|line| seen.push(line.to_owned()));
        seen
    }

    #[test]
    fn lines_are_whole_however_the_bytes_come() {
        assert_eq!(
            lines(&[b"on", b"e\ntw", b"o\r\n", b"", b"three"]),
            ["one", "two", "three"]
        );
        assert_eq!(lines(&[b"a\n\nb\n"]), ["a", "", "b"]);
    }

    #[test]
    fn binary_output_becomes_harmless_text() {
        assert_eq!(lines(&[b"\x1b[31mred\x1b[0m\x07 \xff\n"]), ["red \u{fffd}"]);
        assert_eq!(lines(&[b" 10%\r 20%\r 30%\n"]), [" 30%"]);
    }

    #[test]
    fn a_stream_without_newlines_does_not_pile_up() {
        let seen = lines(&[&[b'x'; 20_000], &[b'x'; 20_000]]);
        assert_eq!(seen.iter().map(String::len).sum::<usize>(), 40_000);
        assert!(seen.iter().all(|line| line.len() <= LONGEST_LINE));
    }

    #[test]
    fn spans_are_told_in_their_unit() {
        for (seconds, text) in [
            (5.25, "5.2 s"),
            (90.0, "1 min"),
            (7200.0, "2 h"),
            (200_000.0, "2 d"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
