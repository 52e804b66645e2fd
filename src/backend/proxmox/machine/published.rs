//! Finished templates: what they are tagged with, what became of them since they were built, and how their tags are changed.

use std::fmt;

use super::hardware::Change;
use super::lease::{Lease, OURS};
use super::list::{Listed, Survey};
use crate::backend::proxmox::error::Failure;
use crate::backend::proxmox::{Proxmox, REPLICA, TEMPLATE};
use crate::error::{Error, Kind, Result};
use crate::record::{Place, TemplateFile};

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
    /// Where it was made, or copied to.
    Here(&'s Listed),
    /// On another node of the cluster.
    Moved(&'s str),
    /// There, but the node is offline.
    Offline,
    /// It is no template any more.
    Reverted,
    /// Its id is that of something else.
    Replaced(&'s Listed),
    Gone,
}

impl Survey {
    /// Where a template is. Only the tag of its build says that something is it.
    pub fn find(&self, place: &Place<'_>) -> Located<'_> {
        let mut all = self.all();
        let Some(listed) = all.find(|listed| listed.vmid == place.vmid) else {
            return Located::Gone;
        };
        if !listed.has(&Lease::tag(&place.file.build)) {
            return Located::Replaced(listed);
        }
        if listed.node != place.node {
            return Located::Moved(&listed.node);
        }
        match listed.is_template {
            // Whether it is a template, and its name, are forgotten after a while.
            _ if self.offline.contains(&listed.node) => Located::Offline,
            true => Located::Here(listed),
            false => Located::Reverted,
        }
    }

    /// How a template differs from what was written down of it. It should have the tags in `wanted`, and none in `unwanted`; a
    /// copy says of itself that it is one.
    pub fn drift(&self, place: &Place<'_>, wanted: &[String], unwanted: &[String]) -> Vec<Drift> {
        let listed = match self.find(place) {
            Located::Here(listed) => listed,
            Located::Moved(node) => return vec![Drift::Moved(node.to_owned())],
            Located::Offline => return vec![Drift::Offline],
            Located::Reverted => return vec![Drift::Reverted],
            Located::Replaced(listed) => return vec![Drift::Replaced(listed.name.clone())],
            Located::Gone => return vec![Drift::Gone],
        };
        let mut drift = vec![];
        if listed.name != place.file.name {
            drift.push(Drift::Renamed(listed.name.clone()));
        }
        let own = place.is_replica().then(|| REPLICA.to_owned());
        let missing = wanted.iter().chain(&own).filter(|tag| !listed.has(tag));
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
    /// Its node cannot be asked.
    Offline,
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
            Drift::Offline => f.write_str("its node is offline"),
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

impl Drift {
    /// For people who know of the version, and may not know that it has copies.
    pub fn of(&self, place: &Place<'_>) -> String {
        match place.is_replica() {
            true => format!("its copy {} on {}: {self}", place.vmid, place.node),
            false => self.to_string(),
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
    pub async fn confirm_gone(&self, place: &Place<'_>) -> Result<()> {
        let (vmid, name) = (place.vmid, &place.file.name);
        let config = self.on(place.node).machine_config(vmid).await;
        let config = config
            .map_err(|failure| failure.during(format!("looking for the template {vmid} ({name})")));
        config.map(drop)
    }

    /// Adds and takes away tags of a template. All others stay as they are, though somebody else changes them at this moment.
    ///
    /// Errors: it is not there ([`Kind::Conflict`]), what the server says.
    pub async fn change_tags(
        &self,
        place: &Place<'_>,
        add: &[String],
        remove: &[String],
    ) -> Result<()> {
        let (server, vmid, file) = (self.on(place.node), place.vmid, place.file);
        let doing = format!("tagging the template {vmid} ({})", file.name);
        let failed = |failure: Failure| failure.during(doing.as_str());
        let mut attempt = 0;
        loop {
            attempt += 1;
            let config = server.machine_config(vmid).await.map_err(failed)?;
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
            let Err(error) = server.configure(vmid, change).await else {
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
    use crate::record::Replica;

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
            replicas: vec![Replica {
                node: "pve2".into(),
                vmid: 9010,
            }],
        }
    }

    fn listed() -> Listed {
        Listed {
            node: "pve".into(),
            vmid: 9000,
            name: "web-3".into(),
            tags: fixed_tags(BUILD, "web", 3, Some("RC.1")),
            is_template: true,
            disk: None,
        }
    }

    fn survey(here: Vec<Listed>, elsewhere: Vec<Listed>) -> Survey {
        Survey {
            here,
            elsewhere,
            offline: vec!["pve3".into()],
        }
    }

    fn drift(here: Vec<Listed>, elsewhere: Vec<Listed>) -> Vec<Drift> {
        let wanted = [fixed_tags(BUILD, "web", 3, None), vec!["stable".into()]].concat();
        let (file, survey) = (file(), survey(here, elsewhere));
        let original = file.places().next().unwrap();
        survey.drift(&original, &wanted, &["candidate".into()])
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
        let elsewhere = with(|listed| listed.node = "pve2".into());
        let moved = [Drift::Moved("pve2".into())];
        assert_eq!(drift(vec![], vec![elsewhere.clone()]), moved);
        assert_eq!(drift(vec![elsewhere], vec![]), moved);
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
    fn a_copy_is_compared_with_the_same_and_must_say_that_it_is_one() {
        let copy = Listed {
            node: "pve2".into(),
            vmid: 9010,
            ..listed()
        };
        let file = file();
        let place = file.places().next_back().unwrap();
        let told = |listed: Vec<Listed>| {
            let survey = survey(listed, vec![]);
            let drift = survey.drift(&place, &[], &[]);
            drift.iter().map(|it| it.of(&place)).collect::<Vec<_>>()
        };
        let lacks = "its copy 9010 on pve2: it lacks the tag imgbuild-replica";
        assert_eq!(told(vec![listed(), copy.clone()]), [lacks]);
        let mut said = copy;
        said.tags.push(REPLICA.into());
        assert_eq!(told(vec![listed(), said]), Vec::<String>::new());
        assert_eq!(told(vec![listed()]), ["its copy 9010 on pve2: it is gone"]);
    }

    #[test]
    fn tags_are_added_and_taken_away_and_all_others_stay_in_their_order() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (add, remove) = (words("stable b"), words("candidate"));
        let after = changed(&["b", "candidate", "a"], &add, &remove);
        assert_eq!(after, ["b", "a", "stable"]);
    }
}
