//! Which of two versions is the newer one.

use std::cmp::Ordering;

/// Compares versions as rpm does for its packages, and all else as dpkg does (Debian's policy, 5.6.12). What other managers
/// call a version before the release is put into dpkg's form first.
pub fn compare(manager: &str, a: &str, b: &str) -> Ordering {
    match manager {
        "rpm" => by_parts(a, b, rpm),
        "npm" | "apk" | "pypi" => {
            let [a, b] = [a, b].map(|version| before_release(manager, version));
            by_parts(&a, &b, debian)
        }
        _ => by_parts(a, b, debian),
    }
}

/// With dpkg's `~` before what makes it a version before the release: `1.0.0-rc.1` of npm, `1.0_rc1` of apk, `1.0rc1` of
/// Python.
fn before_release(manager: &str, version: &str) -> String {
    // What is behind a plus does not count for npm.
    let version = match manager {
        "npm" => version.split('+').next().unwrap_or_default(),
        _ => version,
    };
    match manager {
        "npm" => version.replacen('-', "~", 1),
        "apk" => ["_alpha", "_beta", "_pre", "_rc"]
            .iter()
            .fold(version.to_owned(), |version, word| {
                version.replace(word, &word.replace('_', "~"))
            }),
        _ => {
            let digit = |c: char| c.is_ascii_digit();
            let words = [".dev", "a", "b", "rc"];
            let found = words.iter().filter_map(|word| {
                let (before, after) = version.split_once(word)?;
                (before.ends_with(digit) && after.starts_with(digit)).then_some(before.len())
            });
            match found.min() {
                Some(at) => format!(
                    "{}~{}",
                    &version[..at],
                    version[at..].trim_start_matches('.')
                ),
                None => version.to_owned(),
            }
        }
    }
}

/// Compares epochs, then versions, then revisions, each by `compare`.
fn by_parts(a: &str, b: &str, compare: fn(&[u8], &[u8]) -> Ordering) -> Ordering {
    let parts = |version: &str| {
        let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        [epoch, upstream, revision].map(str::to_owned)
    };
    let (a, b) = (parts(a), parts(b));
    let parts = a.iter().zip(&b);
    parts
        .map(|(a, b)| compare(a.as_bytes(), b.as_bytes()))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// Text and numbers in turn; of two texts, `~` is before the end, and that before letters, and those before all else.
fn debian(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let weight = |byte: Option<&u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_digit() => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    };
    let is_text = |byte: Option<&u8>| byte.is_some_and(|byte| !byte.is_ascii_digit());
    while !a.is_empty() || !b.is_empty() {
        while is_text(a.first()) || is_text(b.first()) {
            match weight(a.first()).cmp(&weight(b.first())) {
                Ordering::Equal => {
                    (a, b) = (
                        a.get(1..).unwrap_or_default(),
                        b.get(1..).unwrap_or_default(),
                    )
                }
                other => return other,
            }
        }
        let (number_a, rest_a) = number(a);
        let (number_b, rest_b) = number(b);
        let order = number_a
            .len()
            .cmp(&number_b.len())
            .then(number_a.cmp(number_b));
        if order.is_ne() {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

/// Part by part (rpm's manual, rpm-version(7)).
fn rpm(a: &[u8], b: &[u8]) -> Ordering {
    segments(a).cmp(&segments(b))
}

/// What rpm takes a version apart into, the least first. What is between words and numbers does not count.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment<'v> {
    /// `~`: the version is before the one that ends here.
    Before,
    End,
    /// `^`: it is after that, but before all that have more.
    After,
    Word(&'v [u8]),
    /// The count of its digits, and these.
    Number(usize, &'v [u8]),
}

fn segments(mut version: &[u8]) -> Vec<Segment<'_>> {
    let mut all = vec![];
    while let Some((first, mut rest)) = version.split_first() {
        match first {
            b'~' => all.push(Segment::Before),
            b'^' => all.push(Segment::After),
            b'0'..=b'9' => {
                let digits;
                (digits, rest) = number(version);
                all.push(Segment::Number(digits.len(), digits));
            }
            _ if first.is_ascii_alphabetic() => {
                let end = version.iter().position(|byte| !byte.is_ascii_alphabetic());
                let word;
                (word, rest) = version.split_at(end.unwrap_or(version.len()));
                all.push(Segment::Word(word));
            }
            _ => {}
        }
        version = rest;
    }
    all.push(Segment::End);
    all
}

/// The digits at the start, without leading zeros, and what follows.
fn number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    (&digits[zeros..], rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_their_managers_order_them() {
        for (manager, older, newer) in [
            ("deb", "1.0-1", "1.0-2"),
            ("deb", "1.0~rc1-1", "1.0-1"),
            ("deb", "9", "10"),
            ("deb", "2:0.1", "3:0.0"),
            ("deb", "9.9", "1:0"),
            ("deb", "3.0.11-1~deb12u1", "3.0.11-1~deb12u2"),
            ("deb", "1.0", "1.0+dfsg"),
            ("deb", "1.0a", "1.0+"),
            ("deb", "1.0-1", "1.0-1+b1"),
            ("npm", "1.0.0-rc.1", "1.0.0"),
            ("npm", "1.9.0", "1.10.0"),
            ("apk", "1.2_rc1-r0", "1.2-r0"),
            ("apk", "1.2-r0", "1.2_p1-r0"),
            ("pypi", "1.0rc1", "1.0"),
            ("pypi", "1.0.dev3", "1.0"),
            ("pypi", "1.0", "1.0.post1"),
            ("generic", "1.2", "1.3"),
            ("rpm", "1.0-1.el9", "1.0-2.el9"),
            ("rpm", "9-1", "10-1"),
            ("rpm", "9-1", "1:0-1"),
            ("rpm", "1.0~rc1-1", "1.0-1"),
            ("rpm", "1.0-1", "1.0^git1-1"),
            ("rpm", "1.0^git1-1", "1.0.1-1"),
            ("rpm", "1.0-1", "1.0a-1"),
            ("rpm", "1.0a-1", "1.0.1-1"),
            // dpkg's order is another one here.
            ("rpm", "1-4.el9", "1-4.1"),
            ("rpm", "3.0.7", "3.0.7-28.el9"),
        ] {
            assert_eq!(
                compare(manager, older, newer),
                Ordering::Less,
                "{older} {newer}"
            );
            assert_eq!(
                compare(manager, newer, older),
                Ordering::Greater,
                "{older} {newer}"
            );
            assert_eq!(compare(manager, older, older), Ordering::Equal, "{older}");
        }
        assert_eq!(compare("deb", "1.00", "1.0"), Ordering::Equal);
        assert_eq!(compare("rpm", "1_00", "1.0"), Ordering::Equal);
        assert_eq!(
            compare("npm", "1.0.0+build1", "1.0.0+build2"),
            Ordering::Equal
        );
    }
}
