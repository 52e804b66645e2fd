//! Checksum lists, as `sha256sum`, `sha512sum` and BSD's tools write them.

use super::digest::{Algorithm, Digest};
use crate::error::{Error, Kind, Result};

/// How many names a list's error offers.
const OFFERED: usize = 3;

/// What one line says about one file. `digest` is `None` for an algorithm that is too weak to be trusted.
struct Entry<'a> {
    name: &'a str,
    digest: Option<Digest>,
}

/// The digest of the file called `name` by a list; `shown` names the list in errors. Names in a list may have folders
/// before them; only their last part counts.
///
/// Errors (all of kind [`Kind::Verification`]): the file is not listed, it is listed with several digests, or only
/// with weak ones.
pub(super) fn look_up(list: &str, name: &str, shown: &str) -> Result<Digest> {
    let failed = |cause: String| {
        Error::new(format!("looking up {name} in {shown}"))
            .kind(Kind::Verification)
            .cause(cause)
    };
    let entries: Vec<Entry<'_>> = list.lines().filter_map(entry).collect();
    let of_file: Vec<&Entry<'_>> = entries.iter().filter(|entry| entry.name == name).collect();
    if of_file.is_empty() {
        return Err(match nearest(&entries, name).as_slice() {
            [] => failed("it is not a list of checksums".into())
                .hint("the list must be in the format of sha256sum or sha512sum"),
            names => failed("it is not in the list".into())
                .hint(format!("the list has {}", names.join(", "))),
        });
    }
    // A list may give both digests of a file, but two of the same kind contradict each other.
    let by = |algorithm: Algorithm| -> Result<Option<Digest>> {
        let mut found = of_file
            .iter()
            .filter_map(|entry| entry.digest.as_ref())
            .filter(|digest| digest.algorithm == algorithm);
        let first = found.next();
        match found.find(|other| Some(*other) != first) {
            Some(_) => Err(failed("it is listed with different digests".into())),
            None => Ok(first.cloned()),
        }
    };
    let sha512 = by(Algorithm::Sha512)?;
    by(Algorithm::Sha256)?.or(sha512).ok_or_else(|| {
        failed("it is listed with a weak digest only".into())
            .hint("sha256 and sha512 are accepted; pin `sha256` in the recipe instead")
    })
}

/// Reads one line; `None` for what is not an entry (comments, armour of a signature, blank lines).
fn entry(line: &str) -> Option<Entry<'_>> {
    let line = line.trim_end();
    gnu(line).or_else(|| bsd(line))
}

/// `HEX  name`, or `HEX *name` for files read in binary mode.
fn gnu(line: &str) -> Option<Entry<'_>> {
    let (hex, rest) = line.split_once(' ')?;
    let name = rest.strip_prefix([' ', '*']).unwrap_or(rest);
    // 32 digits are MD5: the shortest that lists use.
    let plausible = hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let strong = || [Algorithm::Sha256, Algorithm::Sha512].into_iter();
    (plausible && !name.is_empty()).then(|| Entry {
        name: last_part(name),
        digest: strong().find_map(|algorithm| Digest::new(algorithm, hex)),
    })
}

/// `SHA256 (name) = HEX`.
fn bsd(line: &str) -> Option<Entry<'_>> {
    let (rest, hex) = line.rsplit_once(") = ")?;
    let (algorithm, name) = rest.split_once(" (")?;
    let digest = match algorithm {
        "SHA256" | "SHA2-256" => Digest::new(Algorithm::Sha256, hex),
        "SHA512" | "SHA2-512" => Digest::new(Algorithm::Sha512, hex),
        _ => None,
    };
    Some(Entry {
        name: last_part(name),
        digest,
    })
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn nearest<'a>(entries: &[Entry<'a>], name: &str) -> Vec<&'a str> {
    let mut names: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
    names.sort_unstable();
    names.dedup();
    let likeness = |other: &str| (strsim::jaro_winkler(other, name) * 1e6) as u64;
    names.sort_by_key(|other| std::cmp::Reverse(likeness(other)));
    names.truncate(OFFERED);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(digit: char, count: usize) -> String {
        digit.to_string().repeat(count)
    }

    fn found(list: &str) -> Result<String> {
        look_up(list, "disk.img", "SUMS").map(|digest| digest.to_string())
    }

    #[test]
    fn every_common_format_is_read() {
        let (a, b) = (digits('a', 64), digits('b', 128));
        assert_eq!(
            found(&format!("{a}  disk.img\n")).unwrap(),
            format!("sha256:{a}")
        );
        assert_eq!(
            found(&format!("{a} *disk.img\r\n")).unwrap(),
            format!("sha256:{a}")
        );
        assert_eq!(
            found(&format!("{a}  ./x/disk.img")).unwrap(),
            format!("sha256:{a}")
        );
        assert_eq!(
            found(&format!("{b}  disk.img")).unwrap(),
            format!("sha512:{b}")
        );
        let upper = a.to_uppercase();
        assert_eq!(
            found(&format!("{upper}  disk.img")).unwrap(),
            format!("sha256:{a}")
        );
        let bsd = format!("# disk.img: 12 bytes\nSHA256 (disk.img) = {a}\n");
        assert_eq!(found(&bsd).unwrap(), format!("sha256:{a}"));
        let bsd = format!("SHA512 (disk.img) = {b}\n");
        assert_eq!(found(&bsd).unwrap(), format!("sha512:{b}"));
    }

    #[test]
    fn a_file_whose_name_only_contains_the_name_is_another_file() {
        let list = format!(
            "{}  old-disk.img\n{}  disk.img.xz",
            digits('a', 64),
            digits('b', 64)
        );
        let error = found(&list).unwrap_err();
        assert_eq!(error.get_kind(), Kind::Verification);
        assert!(error.to_string().contains("SUMS"), "{error}");
        let hint = error.get_hint().unwrap();
        assert!(
            hint.contains("disk.img.xz") && hint.contains("old-disk.img"),
            "{hint}"
        );
    }

    #[test]
    fn contradicting_and_weak_entries_are_refused() {
        let list = format!(
            "{}  a/disk.img\n{}  b/disk.img",
            digits('a', 64),
            digits('b', 64)
        );
        assert!(
            found(&list)
                .unwrap_err()
                .to_string()
                .contains("different digests")
        );
        for weak in [32, 40] {
            let list = format!("{}  disk.img", digits('a', weak));
            assert!(found(&list).unwrap_err().to_string().contains("weak"));
        }
        let list = format!("MD5 (disk.img) = {}", digits('a', 32));
        assert!(found(&list).unwrap_err().to_string().contains("weak"));
    }

    #[test]
    fn the_same_entry_twice_is_no_contradiction() {
        let line = format!("{}  disk.img\n", digits('a', 64));
        found(&line.repeat(2)).unwrap();
    }

    #[test]
    fn a_page_instead_of_a_list_is_told() {
        let error = found("<html><body>Not here</body></html>").unwrap_err();
        assert!(
            error.to_string().contains("not a list of checksums"),
            "{error}"
        );
    }
}
