//! Numbers in answers: Perl gives one as text where it has been text before (a port that was read from a file, `termproxy` on
//! 9.2), and which they are may change with any release. So both are taken.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum Given<T> {
    Number(T),
    Text(String),
}

impl<T: FromStr<Err: Display>> Given<T> {
    fn value<E: Error>(self) -> Result<T, E> {
        match self {
            Given::Number(number) => Ok(number),
            Given::Text(text) => text
                .parse()
                .map_err(|error| E::custom(format!("`{text}`: {error}"))),
        }
    }
}

/// A number that is there.
pub fn number<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + FromStr<Err: Display>,
{
    Given::deserialize(from)?.value()
}

/// A number that may be missing, or be Perl's nothing, the empty text. The field needs `default`, too.
pub fn maybe<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + FromStr<Err: Display>,
{
    match Option::<Given<T>>::deserialize(from)? {
        Some(Given::Text(text)) if text.is_empty() => Ok(None),
        given => given.map(Given::value).transpose(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug, PartialEq)]
    struct Answer {
        #[serde(deserialize_with = "number")]
        port: u16,
        #[serde(default, deserialize_with = "maybe")]
        size: Option<u64>,
    }

    #[test]
    fn a_number_may_be_a_text() {
        let read = |text: &str| serde_json::from_str::<Answer>(text).ok();
        let answer = |port, size| Some(Answer { port, size });
        for (text, expected) in [
            (r#"{"port": 5900, "size": 7}"#, answer(5900, Some(7))),
            (r#"{"port": "5900", "size": "7"}"#, answer(5900, Some(7))),
            (r#"{"port": "5900", "size": null}"#, answer(5900, None)),
            (r#"{"port": "5900", "size": ""}"#, answer(5900, None)),
            (r#"{"port": "5900"}"#, answer(5900, None)),
            (r#"{"port": "90000"}"#, None),
            (r#"{"port": "x"}"#, None),
            (r#"{"port": ""}"#, None),
            (r#"{"port": null}"#, None),
            (r#"{"port": 1, "size": []}"#, None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }
}
