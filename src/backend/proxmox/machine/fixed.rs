//! A copy of a template under an id that never changes, for those who know templates by their ids.
//!
//! Proxmox VE cannot give a machine another id. So the old copy goes before the new one is made, and meanwhile there is none:
//! everything that can be known before is looked at before, and what comes after is one clone.

use std::collections::BTreeSet;

use super::clone::{self, Kind};
use super::hardware::Hardware;
use super::lease::OURS;
use super::operate::Config;
use super::site::Site;
use super::template::Label;
use crate::backend::proxmox::{COPY, Proxmox, TEMPLATE};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::run::Run;

/// What a copy is to be.
pub struct Copy<'c> {
    /// The id that it has.
    pub vmid: u32,
    /// The image: only a copy of an older version of it is replaced.
    pub image: &'c str,
    /// The template that it is a copy of.
    pub source: u32,
    /// The tags that are the version's. What somebody else has given the template, or a channel, is not the copy's.
    pub tags: Vec<String>,
    pub hardware: &'c Hardware,
}

/// What the copy of a template is called: it is no version, but says of which it is a copy.
fn label(copy: &Copy<'_>, config: &Config) -> Label {
    let source = copy.source;
    let name = config.name.clone().unwrap_or_default();
    let tags = copy.tags.iter().map(String::as_str);
    let tags = tags.filter(|tag| *tag != TEMPLATE).chain([COPY]);
    let said = config.description.as_deref().unwrap_or_default();
    Label {
        tags: tags.map(str::to_owned).collect(),
        description: format!(
            "A copy of {name} ({source}), under an id that stays the same.\n\n{said}"
        ),
        name,
    }
}

impl Proxmox {
    /// Whether there is a copy of the version of this name under the id.
    pub async fn has_copy(&self, vmid: u32, name: &str) -> Result<bool> {
        let doing = format!("looking at the template {vmid}");
        let Some(there) = self.with_machine(vmid, &doing).await? else {
            return Ok(false);
        };
        let config = there.machine_config(vmid).await;
        let config = config.map_err(|failure| failure.during(doing))?;
        let is_one = config.is_some_and(|config| {
            config.is_template() && config.has(COPY) && config.name.as_deref() == Some(name)
        });
        Ok(is_one)
    }

    /// Puts a copy of a template under its id, in the place of that of an older version. Nothing is removed before it is sure
    /// that nobody uses it, and that it is ours.
    ///
    /// Errors: the id is somebody else's, or machines are overlays of the old copy ([`ErrorKind::Conflict`]).
    pub async fn replace_copy(&self, copy: &Copy<'_>, build: &str, run: &Run) -> Result<()> {
        let vmid = copy.vmid;
        let doing = format!("replacing the template {vmid} on {}", self.target.name);
        let site = Site {
            vmids: vmid..=vmid,
            ..Site::of(&self.target)?.with(copy.hardware)
        };
        let pool = copy.hardware.pool.as_deref();
        let asked = async |server: &Proxmox, vmid| {
            let config = server.machine_config(vmid).await;
            config.map_err(|failure| failure.during(doing.as_str()))
        };
        let source = asked(self, copy.source).await?.ok_or_else(|| {
            Error::new(doing.as_str()).cause(format!("the version, {}, is gone", copy.source))
        })?;
        let label = label(copy, &source);
        // An older version may have been made on another node.
        if let Some(there) = self.with_machine(vmid, &doing).await?
            && let Some(old) = asked(&there, vmid).await?
        {
            let ours = old.has(OURS) && old.has(COPY) && old.has(copy.image) && old.is_template();
            if !ours {
                let name = old.name.as_deref().unwrap_or("without a name");
                return Err(Error::new(doing)
                    .kind(ErrorKind::Conflict)
                    .cause(format!(
                        "the id is that of {name}, which is no copy of {}",
                        copy.image
                    ))
                    .hint("give `[target.proxmox] vmid` another id, or remove that machine"));
            }
            let users = there.users_of(vmid).await;
            let users = users.map_err(|failure| failure.during(doing.as_str()))?;
            refuse_in_use(&users, &doing)?;
            let removing = run.phase("remove old copy", there.remove_template(vmid));
            if let Err(error) = removing.await {
                // Without any copy there is nothing to be gained by giving up.
                match asked(&there, vmid).await? {
                    None => run.events.warn(error.with_hint()),
                    Some(_) => return Err(error),
                }
            }
        }
        let made = async {
            let cloning = clone::clone(self, &site, (copy.source, Kind::Full), pool, build, run);
            let claimed = run.phase("copy template", cloning).await?;
            self.make_template(vmid).await?;
            self.label(vmid, &label).await?;
            run.release(&claimed.machine)
        };
        made.await.map_err(|error: Error| {
            error.hint(format!(
                "there is no template {vmid} now; the version is there as {} ({}): run the build again, which only makes the \
                 copy, or clone it by hand",
                label.name, copy.source
            ))
        })
    }
}

fn refuse_in_use(users: &BTreeSet<u32>, doing: &str) -> Result<()> {
    if users.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = users.iter().map(u32::to_string).collect();
    Err(Error::new(doing)
        .kind(ErrorKind::Conflict)
        .cause(format!(
            "these machines are linked clones of it: {}",
            names.join(", ")
        ))
        .hint("move their disks (which makes them whole), or remove them, and run the build again"))
}
