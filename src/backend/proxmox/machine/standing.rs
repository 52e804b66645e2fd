//! Templates that are there, as something to begin from: their disk, and what tells one from another.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::lease::{self, Lease};
use super::list::{Listed, Survey};
use super::{Located, hardware};
use crate::backend::proxmox::error::Failure;
use crate::backend::proxmox::{Proxmox, StoredImage, TEMPLATE, number};
use crate::error::{Error, Kind, Result};
use crate::record::TemplateFile;
use crate::source::TemplateId;

/// A machine's configuration.
#[derive(Deserialize)]
struct Described {
    #[serde(default, deserialize_with = "number::maybe")]
    template: Option<u8>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// What a node says of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What its machines boot from.
    pub volume: String,
    /// Bytes of that.
    pub size: Option<u64>,
    /// What it has had since it was made, and another template has not. Neither its name, nor its tags or description.
    pub identity: BTreeMap<String, String>,
    tags: Vec<String>,
}

impl Standing {
    /// Reads a configuration; `None` for one of no template, or without a disk.
    fn of(config: &Described) -> Option<Self> {
        let (is_template, config) = (config.template == Some(1), &config.rest);
        let text = |name: &str| config.get(name).and_then(Value::as_str);
        let disk = boot_disk(config).filter(|_| is_template)?;
        let volume = disk.split(',').next()?.trim_start_matches("file=");
        let parts = text("smbios1").into_iter().chain(text("meta"));
        let parts = parts.flat_map(|text| text.split(','));
        let parts = parts.filter_map(|part| part.split_once('='));
        let parts = parts.filter(|(name, _)| ["uuid", "ctime"].contains(name));
        let vmgenid = text("vmgenid").map(|it| ("vmgenid", it));
        let all = parts.chain(vmgenid).chain([("disk", volume)]);
        Some(Standing {
            volume: volume.to_owned(),
            size: hardware::size(disk),
            identity: all
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            tags: lease::split(text("tags").unwrap_or_default())
                .map(str::to_owned)
                .collect(),
        })
    }

    /// The build that it says it was made by, if it says that it is a finished template of ours.
    pub fn build(&self) -> Option<&str> {
        let tags: Vec<&str> = self.tags.iter().map(String::as_str).collect();
        Lease::build_in(&tags).filter(|_| tags.contains(&TEMPLATE))
    }

    /// Whether it says that this build made it.
    pub fn is_of(&self, build: &str) -> bool {
        self.tags.contains(&Lease::tag(build))
    }

    /// Whether something tells it from a template that gets the same id when this one is gone.
    pub fn is_unique(&self) -> bool {
        self.identity.keys().any(|name| name != "disk")
    }

    /// Its disk, as what a machine's is made of; `digest` is what its content is known by.
    pub fn image(&self, digest: &str) -> StoredImage {
        StoredImage {
            volume: self.volume.clone(),
            digest: digest.get(..12).unwrap_or(digest).to_owned(),
            size: self.size.unwrap_or_default(),
        }
    }
}

/// The value of the drive that a machine boots from: the first disk of its boot order, or the only disk.
fn boot_disk(config: &BTreeMap<String, Value>) -> Option<&str> {
    let is_disk = |name: &str| {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        stem != name && ["ide", "sata", "scsi", "virtio"].contains(&stem)
    };
    let disk = |name: &str| {
        let value = config.get(name).filter(|_| is_disk(name))?.as_str()?;
        let is_empty = !value.contains(':') || value.contains("media=cdrom");
        (!is_empty).then_some(value)
    };
    let text = |name: &str| config.get(name).and_then(Value::as_str);
    let order = text("boot").and_then(|boot| boot.strip_prefix("order="));
    let ordered = order.into_iter().flat_map(|order| order.split(';'));
    // As configurations had it before Proxmox VE 6.3.
    let named = ordered.chain(text("bootdisk")).find_map(disk);
    named.or_else(|| {
        let mut all = config.keys().filter_map(|name| disk(name));
        all.next().filter(|_| all.next().is_none())
    })
}

impl Proxmox {
    /// What this node says of a template; `None` if it has none of this id, or that has no disk to boot from.
    pub async fn standing(&self, vmid: u32) -> Result<Option<Standing>, Failure> {
        let config: Option<Described> = self.config_as(vmid).await?;
        Ok(config.as_ref().and_then(Standing::of))
    }

    /// Where a build on this target can begin from a version: the node of each of its templates that is there, and its id.
    ///
    /// Errors: there is none ([`Kind::Conflict`]), with why for each; it was made on another server ([`Kind::Usage`]).
    pub async fn places_of(&self, file: &TemplateFile, doing: &str) -> Result<Vec<(String, u32)>> {
        let target = &self.target;
        if file.endpoint != target.endpoint.as_str() {
            return Err(Error::new(doing)
                .kind(Kind::Usage)
                .cause(format!(
                    "its template is on {}, and the target {} is {}",
                    file.endpoint, target.name, target.endpoint
                ))
                .hint("build that image on this target, too"));
        }
        let survey = self.survey().await;
        let survey = survey.map_err(|failure| failure.during(doing))?;
        let (mut places, mut why) = (vec![], vec![]);
        for place in file.places() {
            let found = survey.find(&place);
            match found {
                Located::Here(_) if target.is_auto || target.node == place.node => {
                    places.push((place.node.to_owned(), place.vmid));
                }
                Located::Here(_) => why.push(format!(
                    "it is on {}, and the target builds on {}",
                    place.node, target.node
                )),
                _ => {
                    if found == Located::Gone {
                        // A list leaves out what we may not see.
                        self.confirm_gone(&place).await?;
                    }
                    let drift = survey.drift(&place, &[], &[]);
                    why.extend(drift.iter().map(|drift| drift.of(&place)));
                }
            }
        }
        match places.is_empty() {
            false => Ok(places),
            true => Err(Error::new(doing)
                .kind(Kind::Conflict)
                .cause(why.join("; "))
                .hint("build that image again, name another version of it, or put the template back where it was")),
        }
    }

    /// The template that a recipe names, and what its node says of it.
    ///
    /// Errors: there is none, or there are several ([`Kind::Usage`]); it is where the target does not build.
    pub async fn template_named(
        &self,
        named: &TemplateId,
        doing: &str,
    ) -> Result<(Listed, Standing)> {
        let survey = self.survey().await;
        let survey = survey.map_err(|failure| failure.during(doing))?;
        let listed = the_one(&survey, named, doing)?;
        let target = &self.target;
        if !target.is_auto && target.node != listed.node {
            let cause = format!(
                "it is on {}, and the target builds on {}",
                listed.node, target.node
            );
            return Err(Error::new(doing).cause(cause).hint(format!(
                "build on a target whose node is {}, or \"auto\"",
                listed.node
            )));
        }
        let standing = self.on(&listed.node).standing(listed.vmid).await;
        let standing = standing.map_err(|failure| failure.during(doing))?;
        let standing = standing.ok_or_else(|| {
            Error::new(doing)
                .kind(Kind::Usage)
                .cause("it has no disk that its machines would boot from")
        })?;
        match standing.is_unique() || standing.build().is_some() {
            true => Ok((listed.clone(), standing)),
            false => Err(Error::new(doing)
                .kind(Kind::Usage)
                .cause("nothing tells it from another template that would get its id")
                .hint(format!("on the node: qm set {} --vmgenid 1", listed.vmid))),
        }
    }
}

/// The only template that has this id or name.
fn the_one<'s>(survey: &'s Survey, named: &TemplateId, doing: &str) -> Result<&'s Listed> {
    let is_named = |listed: &&Listed| match named {
        TemplateId::Vmid(vmid) => listed.vmid == *vmid,
        TemplateId::Name(name) => listed.name == *name,
    };
    let error = || Error::new(doing).kind(Kind::Usage);
    let all: Vec<&Listed> = survey.all().filter(is_named).collect();
    if let Some(away) = all.iter().find(|it| survey.offline.contains(&it.node)) {
        return Err(Error::new(doing)
            .cause(format!("it is on {}, which is offline", away.node))
            .hint("run the build again when the node is back"));
    }
    let templates: Vec<&Listed> = all.iter().copied().filter(|it| it.is_template).collect();
    match (templates.as_slice(), all.first()) {
        ([one], _) => Ok(one),
        ([_, ..], _) => {
            let ids: Vec<_> = templates.iter().map(|it| it.vmid.to_string()).collect();
            let cause = format!("several are called so: {}", ids.join(", "));
            Err(error().cause(cause).hint("name it by its id"))
        }
        ([], Some(machine)) => Err(error().cause("it is no template").hint(format!(
            "build on a copy that is one: on the node, qm clone {0} ID --full && qm template ID",
            machine.vmid
        ))),
        ([], None) => Err(error()
            .cause("there is none that the login may see")
            .hint("`qm list` on the node tells what there is; the login needs VM.Audit and VM.Clone on it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn standing(config: Value) -> Option<Standing> {
        Standing::of(&serde_json::from_value(config).unwrap())
    }

    /// A template of somebody's, with a cloud-init drive.
    fn config() -> Value {
        json!({
            "template": 1, "name": "debian", "tags": "mine", "description": "", "boot": "order=ide2;virtio0",
            "ide2": "local:9000/vm-9000-cloudinit.qcow2,media=cdrom",
            "virtio0": "local:9000/base-9000-disk-0.qcow2,discard=on,size=2G",
            "scsi1": "local:9000/base-9000-disk-1.raw,size=1G",
            "smbios1": "uuid=11111111-2222-3333-4444-555555555555,manufacturer=eA==,base64=1",
            "vmgenid": "66666666-7777-8888-9999-000000000000", "meta": "creation-qemu=9.2.0,ctime=1764080000",
        })
    }

    fn changed(name: &str, value: impl Into<Value>) -> Option<Standing> {
        let mut config = config();
        config[name] = value.into();
        standing(config)
    }

    #[test]
    fn the_disk_is_the_first_that_machines_would_boot_from() {
        let volume = |name: &str, value: &str| changed(name, value).map(|it| it.volume);
        let expected = "local:9000/base-9000-disk-0.qcow2";
        let found = standing(config()).unwrap();
        assert_eq!(
            (found.volume.as_str(), found.size),
            (expected, Some(2 << 30))
        );
        let other = "local:9000/base-9000-disk-1.raw";
        assert_eq!(volume("boot", "order=scsi1"), Some(other.into()));
        assert_eq!(volume("boot", "order=net0"), None, "there are two");
        let one = json!({"template": 1, "bootdisk": "sata0", "sata0": "thin:base-9000-disk-0"});
        assert_eq!(standing(one).unwrap().volume, "thin:base-9000-disk-0");
        let alone = json!({"template": 1, "scsi0": "thin:base-9000-disk-0", "efidisk0": "thin:base-9000-disk-1"});
        assert_eq!(standing(alone).unwrap().volume, "thin:base-9000-disk-0");
        assert_eq!(changed("template", 0), None);
        assert!(changed("template", "1").is_some(), "as text");
    }

    #[test]
    fn a_template_is_another_one_when_it_was_made_anew_and_not_when_it_was_described() {
        let first = standing(config()).unwrap();
        for (name, value) in [
            ("name", "x"),
            ("tags", "a;b"),
            ("description", "x"),
            ("boot", "order=virtio0"),
        ] {
            let same = changed(name, value).unwrap();
            assert_eq!(same.identity, first.identity, "{name}");
        }
        for (name, value) in [
            ("vmgenid", "a"),
            ("smbios1", "uuid=b"),
            ("meta", "ctime=1"),
            ("virtio0", "local:9000/base-9000-disk-2.qcow2"),
        ] {
            let other = changed(name, value).unwrap();
            assert_ne!(other.identity, first.identity, "{name}");
        }
        assert!(first.is_unique());
        let bare = standing(json!({"template": 1, "scsi0": "thin:base-9000-disk-0"}));
        assert!(!bare.unwrap().is_unique());
    }

    #[test]
    fn a_template_of_ours_says_which_build_made_it() {
        let build = |tags: &str| changed("tags", tags)?.build().map(str::to_owned);
        let ours = "imgbuild;imgbuild-20261125-142800-0a0b";
        assert_eq!(
            build(&format!("{ours};{TEMPLATE}")),
            Some("20261125-142800-0a0b".into())
        );
        assert_eq!(build(ours), None);
        assert_eq!(build(&format!("{ours};imgbuild-copy")), None);
        assert_eq!(build("imgbuild-template"), None);
    }

    #[test]
    fn what_is_named_must_be_one_template() {
        let listed = |vmid, name: &str, node: &str, is_template| Listed {
            node: node.into(),
            vmid,
            name: name.into(),
            tags: vec![],
            is_template,
            disk: None,
        };
        let survey = Survey {
            here: vec![
                listed(100, "debian", "pve", true),
                listed(101, "twice", "pve", true),
                listed(102, "twice", "pve", true),
                listed(103, "debian", "pve", false),
                listed(104, "machine", "pve", false),
            ],
            elsewhere: vec![listed(105, "away", "pve2", true)],
            offline: vec!["pve2".into()],
        };
        let found = |text: &str| {
            let found = the_one(&survey, &text.parse().unwrap(), "testing");
            found.map(|it| it.vmid).map_err(|error| error.to_string())
        };
        assert_eq!(found("100"), Ok(100));
        assert_eq!(found("debian"), Ok(100), "the machine is not meant");
        for (text, why) in [
            ("twice", "testing: several are called so: 101, 102"),
            ("104", "testing: it is no template"),
            ("machine", "testing: it is no template"),
            ("away", "testing: it is on pve2, which is offline"),
            ("999", "testing: there is none that the login may see"),
        ] {
            assert_eq!(found(text), Err(why.into()), "{text}");
        }
    }
}
