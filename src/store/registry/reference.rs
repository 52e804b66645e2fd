//! How people name a version: `web`, `web@7`, `web@2026.11.25`, `web@stable`; on a target, `lab/web@stable`.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::text::is_dns_label;

/// What the registry calls an image: images on targets are others than those here, with versions and channels of their own.
pub fn name(image: &str, target: Option<&str>) -> String {
    match target {
        None => image.to_owned(),
        Some(target) => format!("{target}/{image}"),
    }
}

/// Whether an image can be called this in the registry.
fn is_name(text: &str) -> bool {
    match text.split_once('/') {
        None => is_dns_label(text),
        Some((target, image)) => is_dns_label(target) && is_dns_label(image),
    }
}

/// The name of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// As the registry has it.
    pub image: String,
    pub wanted: Wanted,
}

/// Which version of an image. No text can mean two of these: a number is all digits, a channel begins with a letter and
/// has no dot, and a label has a dot or begins with a digit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Newest,
    Number(u32),
    /// What `[image] version` made of it.
    Label(String),
    Channel(String),
}

/// The longest label that is taken, in bytes.
const MAX_LABEL: usize = 64;

/// Whether a channel can be called this: a DNS label that begins with a letter, so that it never looks like a version.
pub fn is_channel(name: &str) -> bool {
    is_dns_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Whether a version can have this label.
pub fn is_label(text: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=MAX_LABEL).contains(&text.len())
        && text.chars().all(letters)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && (text.contains('.') || text.starts_with(|c: char| c.is_ascii_digit()))
        && !text.chars().all(|c| c.is_ascii_digit())
}

/// The label that `[image] version` says for a version that is built at `at`: its `%Y` and the like are those of strftime, in
/// UTC.
pub fn label(format: &str, at: Timestamp) -> Result<String, String> {
    let label = jiff::fmt::strtime::format(format, at).map_err(|error| error.to_string())?;
    match is_label(&label) {
        true => Ok(label),
        false => Err(format!("`{label}` cannot be a version's label")),
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
            let number = text.parse().map_err(|_| format!("{text} is too large"))?;
            return Ok(Wanted::Number(number));
        }
        match (is_channel(text), is_label(text)) {
            (true, _) => Ok(Wanted::Channel(text.to_owned())),
            (false, true) => Ok(Wanted::Label(text.to_owned())),
            (false, false) => Err(format!(
                "`{text}` is neither a number, nor a version's label, nor a channel"
            )),
        }
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (image, wanted) = match text.split_once('@') {
            Some((image, wanted)) => (image, wanted.parse()?),
            None => (text, Wanted::Newest),
        };
        match is_name(image) {
            true => Ok(Reference {
                image: image.to_owned(),
                wanted,
            }),
            false => Err(format!("`{image}` cannot be an image's name")),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wanted {
            Wanted::Newest => write!(f, "{}", self.image),
            Wanted::Number(number) => write!(f, "{}@{number}", self.image),
            Wanted::Label(text) | Wanted::Channel(text) => write!(f, "{}@{text}", self.image),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Option<Wanted> {
        let reference: Result<Reference, String> = text.parse();
        reference.ok().map(|reference| {
            assert_eq!(reference.to_string(), text);
            reference.wanted
        })
    }

    #[test]
    fn a_version_is_named_by_number_label_or_channel() {
        assert_eq!(wanted("web"), Some(Wanted::Newest));
        assert_eq!(wanted("web@7"), Some(Wanted::Number(7)));
        assert_eq!(wanted("lab/web@7"), Some(Wanted::Number(7)));
        for label in ["2026.11.25", "2026-11-25", "v1.2", "24.04-1", "3rd"] {
            let expected = Wanted::Label(label.into());
            assert_eq!(wanted(&format!("web@{label}")), Some(expected));
        }
        for channel in ["stable", "candidate", "eu-west-1"] {
            let expected = Wanted::Channel(channel.into());
            assert_eq!(wanted(&format!("web@{channel}")), Some(expected));
        }
    }

    #[test]
    fn a_label_may_have_the_date_in_it() {
        let label = |format| label(format, Timestamp::UNIX_EPOCH).ok();
        assert_eq!(label("%Y.%m.%d"), Some("1970.01.01".into()));
        assert_eq!(label("24.04-%Y%m%d"), Some("24.04-19700101".into()));
        for wrong in ["%Y%m%d", "stable", "%Q.1", "a b.1", ""] {
            assert_eq!(label(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_could_mean_two_things_or_nothing_is_refused() {
        for wrong in [
            "",
            "@stable",
            "web@",
            "Web@1",
            "web@Stable",
            "web@a/b",
            "web@-1",
            "web@.1",
            "web@99999999999",
            "web@a@b",
            "/web",
            "lab/",
            "lab/web/1",
            "Lab/web",
        ] {
            assert_eq!(wanted(wrong), None, "{wrong}");
        }
    }
}
