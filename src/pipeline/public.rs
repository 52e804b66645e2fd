//! What may be told of the recipe's texts: whatever is signed or recorded goes to strangers.

use std::path::Path;

use serde_json::{Value, json};

use crate::provenance::digests;
use crate::run::Events;
use crate::run::events::MASK;

/// Takes out what is nobody else's business.
pub(super) struct Public {
    /// Folders of this machine.
    folders: Vec<String>,
    /// Knows the secrets.
    events: Events,
}

impl Public {
    pub fn new(folders: impl Iterator<Item = String>, events: &Events) -> Self {
        let mut folders: Vec<String> = folders.collect();
        // The inner one before the one that it is in.
        folders.sort_by_key(|folder| std::cmp::Reverse(folder.len()));
        Public {
            folders,
            events: events.clone(),
        }
    }

    /// A text without secrets, credentials in addresses, and folders of this machine.
    pub fn text(&self, text: &str) -> String {
        let text = self.of_guest(text);
        let folders = self.folders.iter();
        folders.fold(text, |text, folder| without_folder(&text, folder))
    }

    /// The same for a text about the guest, whose folders may be called like those here.
    pub fn of_guest(&self, text: &str) -> String {
        without_credentials(&self.events.masked(text))
    }

    /// The value of a variable, or its digest only, if one of its texts is not public, or the path of something on this
    /// machine. A path of the guest's that is there on this machine too is taken for one of this machine's: nobody can tell.
    pub fn value(&self, value: &toml::Value) -> Value {
        // TOML's values are a part of JSON's, but for times, which no variable is.
        let value = serde_json::to_value(value).unwrap_or_default();
        match self.is_public(&value) {
            true => value,
            false => json!({"sha256": digests(value.to_string().as_bytes())["sha256"]}),
        }
    }

    fn is_public(&self, value: &Value) -> bool {
        let public = |text: &str| {
            self.text(text) == text && !(text.starts_with('/') && Path::new(text).exists())
        };
        match value {
            Value::String(text) => public(text),
            Value::Array(list) => list.iter().all(|value| self.is_public(value)),
            Value::Object(table) => table
                .iter()
                .all(|(name, value)| public(name) && self.is_public(value)),
            // A secret may be a number.
            other => public(&other.to_string()),
        }
    }
}

fn without_folder(text: &str, folder: &str) -> String {
    let mut pieces = text.split(folder);
    let mut public = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        // `/home/me` is not in `/home/meier`.
        let goes_on = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        public += match piece.starts_with(goes_on) {
            true => folder,
            false => MASK,
        };
        public += piece;
    }
    public
}

fn without_credentials(text: &str) -> String {
    let mut pieces = text.split("://");
    let mut public = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let ends = |c: char| c == '/' || c == '"' || c.is_whitespace();
        let host = piece.split(ends).next().unwrap_or_default();
        public += "://";
        public += &match host.rfind('@') {
            Some(at) => format!("{MASK}{}", &piece[at..]),
            None => piece.to_owned(),
        };
    }
    public
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public() -> Public {
        let events = Events::new("x", vec![]);
        events.mask("pa\"ss\\word");
        events.mask("12345678");
        let folders = ["/home/me", "/home/me/recipes"];
        Public::new(folders.into_iter().map(str::to_owned), &events)
    }

    #[test]
    fn a_text_is_told_without_secrets_credentials_and_folders_of_this_machine() {
        for (text, told) in [
            ("for the web", "for the web"),
            ("with pa\"ss\\word in it", "with ******** in it"),
            (
                "by https://me:pw@host/a, and x@y",
                "by https://********@host/a, and x@y",
            ),
            ("from /home/me/recipes/a", "from ********/a"),
            ("from /home/me.", "from ********."),
            ("/home/meier", "/home/meier"),
        ] {
            assert_eq!(public().text(text), told);
        }
        assert_eq!(
            public().of_guest("/home/me/pa\"ss\\word"),
            "/home/me/********"
        );
    }

    #[test]
    fn a_variable_with_anything_that_is_not_public_is_a_digest() {
        let of = |text: &str| {
            let table: toml::Table = toml::from_str(text).unwrap();
            public().value(&table["v"])
        };
        assert_eq!(of("v = ['a', 1, true]"), json!(["a", 1, true]));
        assert_eq!(of("v = '/srv/not-here'"), "/srv/not-here");
        for hidden in [
            "v = 'x pa\"ss\\word'",
            "v = ['pa\"ss\\word']",
            "v = { 'pa\"ss\\word' = 1 }",
            "v = 12345678",
            "v = '/home/me'",
            "v = '/etc/passwd'",
            "v = 'https://me:pw@host/'",
        ] {
            assert_eq!(
                of(hidden)["sha256"].as_str().map(str::len),
                Some(64),
                "{hidden}"
            );
        }
    }
}
