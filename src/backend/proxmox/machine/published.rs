//! Finished templates: what they are tagged with, what became of them since they were built, and how their tags are changed.

use std::fmt;

use super::hardware::Change;
use super::lease::{Lease, OURS};
use super::list::{Listed, Survey};
use crate::backend::proxmox::error::Failure;
use crate::backend::proxmox::{Proxmox, TEMPLATE};
use crate::error::{Error, Kind, Result};
use crate::record::TemplateFile;

/// How often tags are read and written when somebody else changes the template in between.
const ATTEMPTS: u32 = 5;

/// What Proxmox VE says when that has happened.
pub(super) const CHANGED: &str = "checksum mismatch";

/// The tags that a template has from its beginning to its end: whose it is, and which version of which image.
pub fn fixed_tags(build: &str, image: &str, number: u32, label: Option<&str>) -> Vec<String> {
    let tags = [
        OURS.to_owned(),
        TEMPLATE.to_owned(),
        Lease::tag(build),
        image.to_owned(),
        format!("v{number}"),
    ];
    let label = label.map(str::to_lowercase);
    tags.into_iter().chain(label).collect()
}

/// Where a template is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located<'s> {
    /// Where it was made.
    Here(&'s Listed),
    /// On another node of the cluster.
    Moved(&'s str),
    /// It is no template any more.
    Reverted,
    /// Its id is that of something else.
    Replaced(&'s Listed),
    Gone,
}

impl Survey {
    /// Where a template is. Only the tag of its build says that something is it.
    pub fn find(&self, file: &TemplateFile) -> Located<'_> {
        let tag = Lease::tag(&file.build);
        let same = |listed: &&Listed| listed.vmid == file.vmid;
        if let Some(listed) = self.here.iter().find(same) {
            return match (listed.has(&tag), listed.is_template) {
                (true, true) => Located::Here(listed),
                (true, false) => Located::Reverted,
                (false, _) => Located::Replaced(listed),
            };
        }
        let mut others = self.elsewhere.iter();
        match others.find(|(_, listed)| same(&listed) && listed.has(&tag)) {
            Some((node, _)) => Located::Moved(node),
            None => Located::Gone,
        }
    }

    /// How a template differs from what was written down of it. It should have the tags in `wanted`, and none in `unwanted`.
    pub fn drift(&self, file: &TemplateFile, wanted: &[String], unwanted: &[String]) -> Vec<Drift> {
        let listed = match self.find(file) {
            Located::Here(listed) => listed,
            Located::Moved(node) => return vec![Drift::Moved(node.to_owned())],
            Located::Reverted => return vec![Drift::Reverted],
            Located::Replaced(listed) => return vec![Drift::Replaced(listed.name.clone())],
            Located::Gone => return vec![Drift::Gone],
        };
        let mut drift = vec![];
        if listed.name != file.name {
            drift.push(Drift::Renamed(listed.name.clone()));
        }
        let missing = wanted.iter().filter(|tag| !listed.has(tag));
        drift.extend(missing.cloned().map(Drift::Lacks));
        let extra = unwanted.iter().filter(|tag| listed.has(tag));
        drift.extend(extra.cloned().map(Drift::Has));
        drift
    }
}

/// A way in which a template differs from what was written down of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    Gone,
    /// To this node.
    Moved(String),
    /// It is no template any more.
    Reverted,
    /// Its id is that of something else, of this name.
    Replaced(String),
    /// It has this name.
    Renamed(String),
    /// It does not have this tag.
    Lacks(String),
    /// It has this tag of another version.
    Has(String),
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Drift::Gone => f.write_str("it is gone"),
            Drift::Moved(node) => write!(f, "it was moved to the node {node}"),
            Drift::Reverted => f.write_str("it is no template any more"),
            Drift::Replaced(name) => write!(
                f,
                "what has its id now, {name}, has not the tag of the build"
            ),
            Drift::Renamed(name) => write!(f, "it was renamed to {name}"),
            Drift::Lacks(tag) => write!(f, "it lacks the tag {tag}"),
            Drift::Has(tag) => write!(f, "it has the tag {tag}, which is another version's"),
        }
    }
}

impl Proxmox {
    /// What keeps this target from being the server that a template is on, if anything does.
    pub fn difference(&self, file: &TemplateFile) -> Option<String> {
        let target = &self.target;
        let pairs = [
            ("endpoint", file.endpoint.as_str(), target.endpoint.as_str()),
            ("node", file.node.as_str(), target.node.as_str()),
        ];
        // Where a node is chosen for each build, each is as good.
        let means_all = |what: &str| what == "node" && target.is_auto;
        let different = pairs
            .iter()
            .filter(|(what, was, is)| was != is && !means_all(what));
        let different = different.map(|(what, was, is)| {
            format!(
                "it was made with the {what} {was}, the target {} has {is}",
                target.name
            )
        });
        let different: Vec<_> = different.collect();
        (!different.is_empty()).then(|| different.join("; "))
    }

    /// Fails if the template may be there though it is not listed: lists leave out what the login may not see.
    pub async fn confirm_gone(&self, file: &TemplateFile) -> Result<()> {
        let (vmid, name) = (file.vmid, &file.name);
        let config = self.machine_config(vmid).await;
        let config = config
            .map_err(|failure| failure.during(format!("looking for the template {vmid} ({name})")));
        config.map(drop)
    }

    /// Adds and takes away tags of a template. All others stay as they are, though somebody else changes them at this moment.
    ///
    /// Errors: it is not there ([`Kind::Conflict`]), what the server says.
    pub async fn change_tags(
        &self,
        file: &TemplateFile,
        add: &[String],
        remove: &[String],
    ) -> Result<()> {
        let doing = format!("tagging the template {} ({})", file.vmid, file.name);
        let failed = |failure: Failure| failure.during(doing.as_str());
        let mut attempt = 0;
        loop {
            attempt += 1;
            let config = self.machine_config(file.vmid).await.map_err(failed)?;
            let config = config.filter(|config| config.is_template() && config.is_of(&file.build));
            let Some(config) = config else {
                return Err(Error::new(doing)
                    .kind(Kind::Conflict)
                    .cause("it is gone, or something else by now"));
            };
            let before: Vec<&str> = config.tags().collect();
            let after = changed(&before, add, remove);
            if after == before {
                return Ok(());
            }
            let mut change = Change::default();
            change.set("tags", after.join(";"));
            if let Some(digest) = &config.digest {
                change.set("digest", digest.as_str());
            }
            let Err(error) = self.configure(file.vmid, change).await else {
                return Ok(());
            };
            // That may be our own change, by a call whose answer was lost.
            let was_changed = error.get_cause().is_some_and(|why| why.contains(CHANGED));
            if !was_changed || attempt >= ATTEMPTS {
                return Err(error);
            }
        }
    }
}

/// Tags with some more, and without some.
fn changed<'t>(tags: &[&'t str], add: &'t [String], remove: &[String]) -> Vec<&'t str> {
    let is_new = |tag: &&str| !tags.contains(tag);
    let stays = |tag: &&str| remove.iter().all(|other| other != tag);
    let kept = tags.iter().copied().filter(stays);
    kept.chain(add.iter().map(String::as_str).filter(is_new))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILD: &str = "20261125-142800-0a0b";

    fn file() -> TemplateFile {
        TemplateFile {
            schema: TemplateFile::SCHEMA,
            target: "lab".into(),
            endpoint: "https://pve.example.org:8006/".into(),
            node: "pve".into(),
            storage: "local".into(),
            vmid: 9000,
            name: "web-3".into(),
            build: BUILD.into(),
            disk: String::new(),
            size: 0,
            replicas: vec![],
        }
    }

    fn listed() -> Listed {
        Listed {
            vmid: 9000,
            name: "web-3".into(),
            tags: fixed_tags(BUILD, "web", 3, Some("RC.1")),
            is_template: true,
            disk: None,
        }
    }

    fn drift(here: Vec<Listed>, elsewhere: Vec<(String, Listed)>) -> Vec<Drift> {
        let wanted = [fixed_tags(BUILD, "web", 3, None), vec!["stable".into()]].concat();
        Survey { here, elsewhere }.drift(&file(), &wanted, &["candidate".into()])
    }

    #[test]
    fn the_tags_of_a_template_say_whose_it_is_and_which_version() {
        let tags = listed().tags.join(";");
        assert_eq!(
            tags,
            format!("imgbuild;imgbuild-template;imgbuild-{BUILD};web;v3;rc.1")
        );
    }

    #[test]
    fn a_template_is_compared_with_what_was_written_down() {
        let with = |change: fn(&mut Listed)| {
            let mut listed = listed();
            listed.tags.push("stable".into());
            change(&mut listed);
            listed
        };
        assert_eq!(drift(vec![with(|_| {})], vec![]), []);
        assert_eq!(drift(vec![], vec![]), [Drift::Gone]);
        let moved = drift(vec![], vec![("pve2".into(), listed())]);
        assert_eq!(moved, [Drift::Moved("pve2".into())]);
        let reverted = with(|listed| listed.is_template = false);
        assert_eq!(drift(vec![reverted], vec![]), [Drift::Reverted]);
        let other = with(|listed| listed.tags.retain(|tag| !tag.ends_with("0a0b")));
        assert_eq!(
            drift(vec![other], vec![]),
            [Drift::Replaced("web-3".into())]
        );
        let changed = with(|listed| {
            listed.name = "db".into();
            listed.tags = vec![Lease::tag(BUILD), "candidate".into(), "mine".into()];
        });
        let expected = [
            Drift::Renamed("db".into()),
            Drift::Lacks("imgbuild".into()),
            Drift::Lacks("imgbuild-template".into()),
            Drift::Lacks("web".into()),
            Drift::Lacks("v3".into()),
            Drift::Lacks("stable".into()),
            Drift::Has("candidate".into()),
        ];
        assert_eq!(drift(vec![changed], vec![]), expected);
    }

    #[test]
    fn tags_are_added_and_taken_away_and_all_others_stay_in_their_order() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (add, remove) = (words("stable b"), words("candidate"));
        let after = changed(&["b", "candidate", "a"], &add, &remove);
        assert_eq!(after, ["b", "a", "stable"]);
    }
}
