//! Whose a machine is and until when, in its tags: what `imgbuild gc` on any computer goes by.
//!
//! The server does not know whether the build that made a machine still runs, and nobody else can ask it. So a build says when
//! it will be over at the latest. Until then its machine is left alone by all but the build's own computer, which has its
//! journal; afterwards anybody may remove it.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::error::{Context, Result};

/// What all tags, names and files of ours begin with, and the tag that all machines of ours have.
pub const OURS: &str = "imgbuild";

/// How long after its beginning a build is over that does not say until when it may go on.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How a time is written: tags have no capital letters and no colons. Always UTC.
const STAMP: &str = "%Y%m%d-%H%M%S";

/// Whose something on a server is, and until when at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The build's id.
    pub build: String,
    pub until: Timestamp,
}

impl Lease {
    /// That of a build which will be over in this time.
    pub fn new(build: &str, duration: Duration) -> Result<Self> {
        let until = Timestamp::now().checked_add(duration);
        Ok(Lease {
            build: build.to_owned(),
            until: until.doing(|| "telling when the build is over")?,
        })
    }

    /// Whether the build is over for sure.
    pub fn is_over(&self) -> bool {
        self.until < Timestamp::now()
    }

    fn stamp(&self) -> String {
        stamp(self.until)
    }

    /// The tag that only what this build made has.
    pub fn tag(build: &str) -> String {
        format!("{OURS}-{build}")
    }

    /// The build that one of these tags names.
    pub fn build_in<'t>(tags: &[&'t str]) -> Option<&'t str> {
        let mut ours = tags.iter().filter_map(|tag| tag.strip_prefix("imgbuild-"));
        ours.find(|build| is_build(build))
    }

    /// The name of every machine of this build.
    pub fn name(build: &str) -> String {
        format!("{OURS}-{build}")
    }

    /// All tags of a machine.
    pub fn tags(&self) -> String {
        let (build, until) = (Lease::tag(&self.build), self.stamp());
        format!("{OURS};{build};{OURS}-until-{until}")
    }

    /// Reads the tags of a machine. `None` for one that is not ours, or does not say until when.
    pub fn of_tags(tags: &str) -> Option<Self> {
        let tags: Vec<&str> = split(tags).collect();
        if !tags.contains(&OURS) {
            return None;
        }
        let ours = || tags.iter().filter_map(|tag| tag.strip_prefix("imgbuild-"));
        Some(Lease {
            build: Lease::build_in(&tags)?.to_owned(),
            until: ours().find_map(|tag| time(tag.strip_prefix("until-")?))?,
        })
    }

    /// Reads the name that every machine of a build has until it is finished. A clone has nothing else at first: its tags are
    /// those of its source. The build says when it began, and [`LONGEST`] after that it is over.
    pub fn of_name(name: &str) -> Option<Self> {
        let build = name.strip_prefix("imgbuild-")?;
        Some(Lease {
            build: build.to_owned(),
            until: began(build)?.checked_add(LONGEST).ok()?,
        })
    }

    /// The name of the file with a machine's seed.
    pub fn seed_file(&self) -> String {
        format!("{OURS}-{}-until-{}.iso", self.build, self.stamp())
    }

    /// Reads such a name.
    pub fn of_seed_file(name: &str) -> Option<Self> {
        let name = name.strip_prefix("imgbuild-")?.strip_suffix(".iso")?;
        let (build, until) = name.split_once("-until-")?;
        Some(Lease {
            build: Some(build).filter(|build| is_build(build))?.to_owned(),
            until: time(until)?,
        })
    }
}

/// The tags in what the API has for them.
pub fn split(tags: &str) -> impl Iterator<Item = &str> {
    tags.split([';', ',', ' ']).filter(|tag| !tag.is_empty())
}

/// A time as tags have it.
pub fn stamp(time: Timestamp) -> String {
    time.strftime(STAMP).to_string()
}

/// Reads such a time.
pub fn time(text: &str) -> Option<Timestamp> {
    let time = DateTime::strptime(STAMP, text).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// When a build began, by its id; `None` if it is none.
pub fn began(build: &str) -> Option<Timestamp> {
    let (began, _) = build.rsplit_once('-').filter(|_| is_build(build))?;
    time(began)
}

/// Whether this can be a build's id: `20261125-142800-0a0b`.
fn is_build(text: &str) -> bool {
    let digits = |part: &str, count: usize| {
        part.len() == count && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let parts: Vec<&str> = text.split('-').collect();
    matches!(parts[..], [day, time, end] if digits(day, 8) && digits(time, 6) && digits(end, 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease {
            build: "20261125-142800-0a0b".into(),
            until: "2026-11-25T18:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn tags_and_names_tell_what_was_said() {
        let tags = "imgbuild;imgbuild-20261125-142800-0a0b;imgbuild-until-20261125-180000";
        assert_eq!(lease().tags(), tags);
        assert_eq!(Lease::of_tags(tags), Some(lease()));
        assert_eq!(Lease::of_tags(&tags.replace(';', " ")), Some(lease()));
        let file = "imgbuild-20261125-142800-0a0b-until-20261125-180000.iso";
        assert_eq!(lease().seed_file(), file);
        assert_eq!(Lease::of_seed_file(file), Some(lease()));
    }

    #[test]
    fn what_is_not_wholly_ours_is_nobodys_to_remove() {
        for tags in [
            "",
            "imgbuild",
            "imgbuild;imgbuild-20261125-142800-0a0b",
            "imgbuild;imgbuild-until-20261125-180000",
            "imgbuild-20261125-142800-0a0b;imgbuild-until-20261125-180000",
            "imgbuild;imgbuild-web;imgbuild-until-20261125-180000",
            "imgbuild;imgbuild-20261125-142800-0a0b;imgbuild-until-20261325-180000",
        ] {
            assert_eq!(Lease::of_tags(tags), None, "{tags}");
        }
        for file in [
            "debian.iso",
            "imgbuild-20261125-142800-0a0b.iso",
            "imgbuild-x-until-20261125-180000.iso",
        ] {
            assert_eq!(Lease::of_seed_file(file), None, "{file}");
        }
    }

    #[test]
    fn a_machine_without_tags_of_its_own_is_known_by_its_name() {
        let lease = Lease::of_name("imgbuild-20261125-142800-0a0b").unwrap();
        assert_eq!(lease.build, "20261125-142800-0a0b");
        assert_eq!(lease.until, "2026-12-02T14:28:00Z".parse().unwrap());
        let began = began("20261125-142800-0a0b");
        assert_eq!(began, Some("2026-11-25T14:28:00Z".parse().unwrap()));
        for name in ["imgbuild-layer-0a0b0c0d0e0f", "imgbuild-web", "web-1", ""] {
            assert_eq!(Lease::of_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_lease_is_over_when_its_time_has_passed() {
        let lasting = Lease::new("b", Duration::from_secs(60)).unwrap();
        assert!(!lasting.is_over());
        let past = Lease {
            until: Timestamp::now() - Duration::from_secs(1),
            ..lasting
        };
        assert!(past.is_over());
    }
}
