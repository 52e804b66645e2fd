//! Names against patterns with `*`, as a shell without further options does it.

/// The names of a path, without empty ones and `.`.
pub(super) fn split(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
}

/// Whether `name` matches `pattern`, in which `*` stands for any bytes, but not for a leading dot.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    let mut parts = pattern.split(|byte| *byte == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&[u8]> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest
            .windows(part.len().max(1))
            .position(|window| window == part || part.is_empty())
        {
            Some(at) => rest = &rest[at + part.len()..],
            None if part.is_empty() => {}
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_a_shell() {
        let cases = [
            ("*", "a", true),
            ("*", ".a", false),
            (".*_history", ".bash_history", true),
            (".*_history", ".history", false),
            ("*.lease*", "internal.lease", true),
            ("*.lease*", "eth0.leases", true),
            ("*.lease*", "secret", false),
            ("ssh_host_*", "ssh_host_", true),
            ("dropbear_*_host_key", "dropbear_rsa_host_key", true),
            ("dropbear_*_host_key", "dropbear_host_key", false),
            ("a*a", "a", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }
}
