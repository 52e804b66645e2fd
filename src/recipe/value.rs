//! Values with a syntax of their own: sizes, durations, file-or-table.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use super::schema::pattern;
use crate::source::TemplateId;

/// A size in bytes. Written as `4GiB`, `"8gb"`, `"512M"` or a number of bytes; all units are powers of 1024, as QEMU,
/// Proxmox and the memory that one buys count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A number of CPUs. Written as `2` or `"2cpu"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus(pub u32);

/// A duration. Written as `"90s"`, `"10m"`, `"1h 30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout(pub Duration);

/// Permission bits of a file. Written as `"0644"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

/// Whether a step's result may be kept. Written as `true`, `false`, or how long: `"1d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    Forever,
    Never,
    For(Duration),
}

/// Where a machine on a node is looked for. Written as `"auto"`, `"agent"`, `"console"`, or an IP address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Address {
    #[default]
    Auto,
    Agent,
    Console,
    Static(IpAddr),
}

/// A template on a target. Written as its id, `9000`, or its name, `"debian-12"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub TemplateId);

/// A file by path, or the content itself as a table.
#[derive(Debug, Clone, PartialEq)]
pub enum FileOrTable {
    File(String),
    Table(serde_json::Value),
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let wrong = || format!("`{text}` is no size; write for instance \"4GiB\" or \"512M\"");
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(wrong()),
        };
        number
            .checked_mul(1 << shift)
            .map(Size)
            .ok_or_else(|| format!("`{text}` is larger than any disk"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", indicatif::BinaryBytes(self.0))
    }
}

impl std::str::FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().trim_end_matches("cpus").trim_end_matches("cpu");
        number
            .trim()
            .parse()
            .map(Cpus)
            .map_err(|_| format!("`{text}` is no number of CPUs; write for instance 2 or \"2cpu\""))
    }
}

impl std::str::FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no duration; write for instance \"90s\" or \"10m\"");
        let duration: jiff::SignedDuration = text.trim().parse().map_err(|_| wrong())?;
        Duration::try_from(duration)
            .map(Timeout)
            .map_err(|_| wrong())
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bits = u32::from_str_radix(text, 8).ok();
        bits.filter(|bits| *bits <= 0o7777 && !text.starts_with('+'))
            .map(Mode)
            .ok_or_else(|| format!("`{text}` are no permission bits; write for instance \"0644\""))
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Address::Auto),
            "agent" => Ok(Address::Agent),
            "console" => Ok(Address::Console),
            text => text.parse().map(Address::Static).map_err(|_| {
                format!(
                    "`{text}` is no IP address; write one, or \"auto\", \"agent\" or \"console\""
                )
            }),
        }
    }
}

impl std::str::FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Template)
    }
}

/// Defaults are told in the recipe's own spelling.
impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let fits = |(shift, _): &&(u32, &str)| self.0 != 0 && self.0.is_multiple_of(1 << shift);
        match units.iter().find(fits) {
            Some((shift, unit)) => to.collect_str(&format_args!("{}{unit}", self.0 >> shift)),
            None => to.serialize_u64(self.0),
        }
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(self.0)
    }
}

impl Serialize for Timeout {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0.as_secs() {
            seconds if seconds % 60 == 0 => to.collect_str(&format_args!("{}m", seconds / 60)),
            seconds => to.collect_str(&format_args!("{seconds}s")),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Address::Auto => to.serialize_str("auto"),
            Address::Agent => to.serialize_str("agent"),
            Address::Console => to.serialize_str("console"),
            Address::Static(address) => to.collect_str(address),
        }
    }
}

/// The schema of a value with a syntax of its own.
macro_rules! has_schema {
    ($($type:ty, $title:literal, $about:literal: $schema:tt),* $(,)?) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let mut schema = json_schema!($schema);
                schema.insert("title".into(), $title.into());
                schema.insert("description".into(), $about.into());
                schema
            }
        }
    )*};
}

has_schema! {
    Size, "size",
    "`\"4GiB\"`, `\"8gb\"` or `\"512M\"`. All units are powers of 1024. A bare number counts bytes. Fractions are refused.": {
        "anyOf": [{"type": "string", "pattern": pattern::SIZE}, {"type": "integer", "minimum": 0}]
    },
    Cpus, "number of CPUs", "A number, or text such as `\"2cpu\"`.": {
        "anyOf": [
            {"type": "string", "pattern": pattern::CPUS},
            {"type": "integer", "minimum": 1, "maximum": 255}
        ]
    },
    Timeout, "duration", "`\"90s\"`, `\"10m\"` or `\"1h 30m\"`. A bare number is refused.": {"type": "string"},
    Mode, "permission bits", "Octal, as text: `\"0644\"`. A number is refused.": {
        "type": "string", "pattern": pattern::MODE
    },
    Address, "address", "`\"auto\"`, `\"agent\"`, `\"console\"`, or an IP address: `\"192.0.2.10\"`.": {
        "type": "string", "pattern": pattern::ADDRESS
    },
    Template, "id or name", "`9000` or `\"debian-12\"`.": {
        "anyOf": [
            {"type": "integer", "minimum": 100, "maximum": 999_999_999},
            {"type": "string", "pattern": pattern::MACHINE}
        ]
    },
    Cache, "boolean or time",
    "`true`, `false`, or how long as text: `\"1d\"`. A day has 24 hours.": {"type": ["boolean", "string"]},
    FileOrTable, "path or table", "The path of a file, or the content itself.": {
        "type": ["string", "object"]
    },
}

/// Decodes from a string by `FromStr`, or from a number where `N` says so.
struct Text<T, N>(&'static str, N, std::marker::PhantomData<T>);

impl<'de, T, N> Visitor<'de> for Text<T, N>
where
    T: std::str::FromStr<Err = String>,
    N: Fn(u64) -> Option<T>,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.1)(number).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self.0))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        let positive = u64::try_from(number).ok().and_then(&self.1);
        positive.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self.0))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let what = "a size such as \"4GiB\"";
        from.deserialize_any(Text(
            what,
            |bytes| Some(Size(bytes)),
            std::marker::PhantomData,
        ))
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = |number: u64| u32::try_from(number).ok().map(Cpus);
        from.deserialize_any(Text(
            "a number of CPUs such as 2",
            number,
            std::marker::PhantomData,
        ))
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = |number: u64| TemplateId::of_number(number).map(Template);
        from.deserialize_any(Text(
            "a template's id, 100 to 999999999, or its name",
            number,
            std::marker::PhantomData,
        ))
    }
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let what = "a duration such as \"90s\" or \"10m\"";
        from.deserialize_any(Text(what, |_| None, std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let what = "\"auto\", \"agent\", \"console\" or an IP address";
        from.deserialize_any(Text(what, |_| None, std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let what = "permission bits such as \"0644\"";
        // A number would be read as decimal by one person and as octal by the next.
        from.deserialize_any(Text(what, |_| None, std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Cache {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Cache;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or how long, such as \"1d\"")
            }

            fn visit_bool<E: de::Error>(self, kept: bool) -> Result<Cache, E> {
                Ok(match kept {
                    true => Cache::Forever,
                    false => Cache::Never,
                })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cache, E> {
                // A day is 24 hours here: a cache does not care for clocks being put forward.
                let span: jiff::Span = text.parse().map_err(|_| {
                    E::custom(format!(
                        "`{text}` is no duration; write for instance \"1d\""
                    ))
                })?;
                let days = jiff::SpanRelativeTo::days_are_24_hours();
                let duration = span.to_duration(days).map_err(E::custom)?;
                let duration = Duration::try_from(duration).map_err(E::custom)?;
                Ok(Cache::For(duration))
            }
        }
        from.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for FileOrTable {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = FileOrTable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a file, or a table")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<FileOrTable, E> {
                Ok(FileOrTable::File(text.to_owned()))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<FileOrTable, M::Error> {
                let content = de::value::MapAccessDeserializer::new(map);
                serde_json::Value::deserialize(content).map(FileOrTable::Table)
            }
        }
        from.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_all_common_spellings() {
        for text in ["4GiB", "4gb", "4G", "4 GiB", "4096M", "4294967296"] {
            assert_eq!(text.parse(), Ok(Size(4 << 30)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "GiB", "-1G", "4X", "1.5G", "99999999999T"] {
            text.parse::<Size>().unwrap_err();
        }
        assert!("4X".parse::<Size>().unwrap_err().contains("\"4GiB\""));
    }

    #[test]
    fn durations_cpus_and_addresses() {
        assert_eq!("1h 30m".parse(), Ok(Timeout(Duration::from_secs(5400))));
        "-5s".parse::<Timeout>().unwrap_err();
        "5".parse::<Timeout>().unwrap_err();
        assert_eq!("0640".parse(), Ok(Mode(0o640)));
        "888".parse::<Mode>().unwrap_err();
        let address = Address::Static([192, 0, 2, 10].into());
        assert_eq!("192.0.2.10".parse(), Ok(address));
        "192.0.2".parse::<Address>().unwrap_err();
        assert_eq!("2cpu".parse(), Ok(Cpus(2)));
        "two".parse::<Cpus>().unwrap_err();
    }
}
