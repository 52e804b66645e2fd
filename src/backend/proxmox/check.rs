//! What a target lacks for imgbuild's work, each thing with the command that mends it.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::call::{Call, Path};
use super::error::{Failure, NotSent, Why};
use super::machine::{Extras, Found, Hardware};
use super::privilege::{self, Need};
use super::storage::Storage;
use super::{Everywhere, Proxmox, Trust, Wish, number};
use crate::finding::{Finding, State};

/// The first version that takes disk images into a storage of content `import` (pve-storage 8.3.6).
const OLDEST: (u32, u32) = (8, 4);

/// The newest major version that this was made for.
const NEWEST: u32 = 9;

/// Less free space than this is told: it is what one base image and a machine on it soon take.
const SCARCE: u64 = 4 << 30;

/// How many ids are tried one by one that the server's list does not show: those of machines that we may not see.
const TRIES: usize = 16;

/// Looks at all that the target names, the hardware of a recipe if there is one, and at what builds have left there. It only
/// reads. `is_alive` tells whether a build runs on this computer.
pub async fn target(
    server: &Proxmox,
    hardware: Option<&Hardware>,
    is_alive: impl Fn(&str) -> bool,
) -> Vec<Finding> {
    let mut findings = vec![];
    let version = match server.version().await {
        Ok(version) => version,
        Err(failure) => return unusable(server, &failure),
    };
    findings.push(Finding::good("server", reached(server)));
    findings.push(Finding::good("login", server.client.identity()));
    findings.push(judge_version(&version));
    let major = parse_version(&version).map_or(NEWEST, |(major, _)| major);
    match server.everywhere().await {
        Ok(everywhere) => {
            let off = everywhere.offline.iter();
            findings.extend(off.map(|node| Finding::fair("node", format!("{node} is offline"))));
            for server in &everywhere.servers {
                findings.extend(on_node(server, hardware, major).await);
            }
            findings.extend(leftovers(&everywhere, is_alive).await);
        }
        Err(failure) => findings.push(untold("nodes", &failure)),
    }
    findings.extend(replicas(server).await);
    findings
}

/// Whether templates can be copied where the target wants them.
async fn replicas(server: &Proxmox) -> Option<Finding> {
    let wanted = &server.target.replicate;
    let what = "copies of templates";
    (!wanted.is_empty()).then_some(())?;
    Some(match server.for_replicas(&Wish::default(), |_| {}).await {
        Ok(_) => Finding::good(what, wanted.join(", ")),
        Err(error) => Finding::missing(what, error.to_string()),
    })
}

/// Looks at all that the target names on its node.
async fn on_node(server: &Proxmox, hardware: Option<&Hardware>, major: u32) -> Vec<Finding> {
    let mut findings = vec![];
    match node(server).await {
        Ok(finding) if finding.state == State::Good => findings.push(finding),
        // Everything else is about the node.
        Ok(finding) => return vec![finding],
        Err(failure) => findings.push(untold("node", &failure)),
    }
    for need in privilege::needs(&server.target, hardware, major) {
        findings.push(privileges(server, &need).await);
    }
    findings.extend(storages(server, hardware).await);
    for bridge in bridges(server, hardware) {
        findings.push(network(server, bridge).await);
    }
    if server.target.vmids.is_some() {
        findings.push(ids(server).await);
    }
    findings
}

fn reached(server: &Proxmox) -> String {
    let trusted = match &server.target.trust {
        Trust::System => "an authority of this machine has signed its certificate",
        Trust::Authorities { .. } => "the target's authority has signed its certificate",
        Trust::Fingerprint(_) => "its certificate is the pinned one",
    };
    format!("{}; {trusted}", server.client.server())
}

/// A server that does not even tell its version.
fn unusable(server: &Proxmox, failure: &Failure) -> Vec<Finding> {
    match &failure.why {
        Why::NotSent(NotSent::Untrusted { .. } | NotSent::Tls(_)) => vec![
            Finding::good("server", format!("{} answers", server.client.server())),
            untold("certificate", failure),
        ],
        Why::Refused(refusal) if matches!(refusal.status, 401 | 403) => vec![
            Finding::good("server", reached(server)),
            untold("login", failure),
        ],
        _ => vec![untold("server", failure)],
    }
}

/// What could not be looked at.
fn untold(what: &str, failure: &Failure) -> Finding {
    let told = match failure.hint() {
        Some(hint) => format!("{failure}; {hint}"),
        None => failure.to_string(),
    };
    Finding::missing(what, told)
}

impl Proxmox {
    /// The server's version, such as `8.4.1`. It is told to whoever has logged in.
    pub async fn version(&self) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }
        let call = Call::get(Path::new(["version"]));
        let version: Version = self.client.call(call).await?;
        Ok(crate::text::printable(&version.version))
    }
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let minor = rest.split(['.', '-', '~']).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn judge_version(text: &str) -> Finding {
    let what = "version";
    match parse_version(text) {
        Some(version) if version < OLDEST => Finding::missing(
            what,
            format!(
                "Proxmox VE {text}; disk images can be imported from {}.{} on",
                OLDEST.0, OLDEST.1
            ),
        ),
        Some((major, _)) if major <= NEWEST => Finding::good(what, format!("Proxmox VE {text}")),
        _ => Finding::fair(
            what,
            format!("Proxmox VE {text}, which this version of imgbuild does not know"),
        ),
    }
}

async fn node(server: &Proxmox) -> Result<Finding, Failure> {
    let name = &server.target.node;
    let nodes = server.nodes().await?;
    let what = "node";
    Ok(match nodes.iter().find(|node| node.name == *name) {
        None => {
            let names = nodes.iter().map(|node| node.name.as_str());
            let hint = crate::text::suggest(name, names);
            Finding::missing(what, format!("there is no {name}; {hint}"))
        }
        Some(node) if node.is_online => Finding::good(what, name),
        Some(_) => Finding::missing(what, format!("{name} is offline")),
    })
}

async fn privileges(server: &Proxmox, need: &Need) -> Finding {
    let what = format!("privileges on {}", need.give_on.unwrap_or(&need.path));
    let held = match server.privileges(&need.path).await {
        Ok(held) => held,
        Err(failure) => return untold(&what, &failure),
    };
    let missing = need.privileges.iter().copied();
    let missing: Vec<_> = missing
        .filter(|privilege| held.iter().all(|held| held != privilege))
        .collect();
    if missing.is_empty() {
        return Finding::good(what, need.privileges.join(", "));
    }
    let on = need.give_on.unwrap_or(&need.path);
    let command = privilege::grant(&missing.join(","), on, server.client.identity());
    let told = format!(
        "without {}, which is for {}; {command}",
        missing.join(", "),
        need.purpose
    );
    match need.optional {
        true => Finding::fair(what, told),
        false => Finding::missing(what, told),
    }
}

impl Proxmox {
    /// Why a storage of the node cannot take this kind of content, as far as the node tells.
    pub(super) async fn unsuitable(
        &self,
        name: &str,
        content: &str,
    ) -> Result<Option<String>, Failure> {
        let known = self.storages().await?;
        let finding = storage(name, content, &known);
        let is_missing = finding.state == State::Missing;
        Ok(is_missing.then(|| format!("{}: {}", finding.what, finding.told)))
    }

    /// Why no machine can be made on the node, and no template that has this besides, as far as storages and bridges tell. It
    /// only reads.
    pub(super) async fn unfit(&self, extras: Option<&Extras>) -> Vec<String> {
        let known = match self.storages().await {
            Ok(known) => known,
            Err(failure) => return vec![failure.to_string()],
        };
        let disks = extras.into_iter().flat_map(Extras::storages);
        let disks = disks.map(|name| (name.as_str(), "images"));
        let roles: BTreeSet<_> = self.target.storages().chain(disks).collect();
        let mut findings: Vec<_> = roles
            .into_iter()
            .map(|(name, content)| storage(name, content, &known))
            .collect();
        let bridges = extras.into_iter().flat_map(Extras::bridges);
        let bridges: BTreeSet<_> = bridges.chain(&self.target.bridge).collect();
        for bridge in bridges {
            findings.push(network(self, bridge).await);
        }
        findings.retain(|finding| finding.state == State::Missing);
        let images = self.target.images.as_deref();
        let mut why: Vec<_> = findings
            .into_iter()
            .map(|finding| format!("{}: {}", finding.what, finding.told))
            .collect();
        for storage in known.iter().filter(|it| Some(it.name.as_str()) == images) {
            if let Some(free) = storage.avail.filter(|free| *free < SCARCE) {
                let free = indicatif::BinaryBytes(free);
                why.push(format!("storage {}: only {free} free", storage.name));
            }
        }
        why
    }
}

async fn storages(server: &Proxmox, hardware: Option<&Hardware>) -> Vec<Finding> {
    let target = &server.target;
    let of_hardware = hardware.into_iter().flat_map(|hardware| {
        let storages = hardware.template.storages();
        storages.chain(&hardware.storage)
    });
    let images: BTreeSet<&String> = of_hardware.chain(&target.images).collect();
    let roles = [(&target.import, "import")];
    let roles = roles
        .into_iter()
        .chain(images.into_iter().map(|name| (name, "images")))
        .chain(target.iso.as_ref().map(|name| (name, "iso")));
    let known = match server.storages().await {
        Ok(known) => known,
        Err(failure) => return vec![untold("storages", &failure)],
    };
    roles
        .map(|(name, content)| storage(name, content, &known))
        .collect()
}

fn storage(name: &str, content: &str, known: &[Storage]) -> Finding {
    let what = format!("storage {name} ({content})");
    let Some(storage) = known.iter().find(|storage| storage.name == name) else {
        let names = known.iter().map(|storage| storage.name.as_str());
        let seen = match known.is_empty() {
            true => "none can be seen".to_owned(),
            false => crate::text::suggest(name, names),
        };
        let told = format!(
            "it is not on the node, or the login has no Datastore.Audit on /storage/{name}; {seen}"
        );
        return Finding::missing(what, told);
    };
    if !storage.is_enabled() {
        let told = format!("it is disabled; on the node: pvesm set {name} --disable 0");
        return Finding::missing(what, told);
    }
    if !storage.is_active() {
        return Finding::missing(what, "it is not active: is what it is on mounted?");
    }
    if storage.content.split(',').all(|has| has.trim() != content) {
        let told = format!(
            "it does not hold `{content}`; on the node: pvesm set {name} --content {},{content}",
            storage.content
        );
        return Finding::missing(what, told);
    }
    match storage.avail {
        Some(free) if free < SCARCE => {
            Finding::fair(what, format!("only {} free", indicatif::BinaryBytes(free)))
        }
        Some(free) => Finding::good(what, format!("{} free", indicatif::BinaryBytes(free))),
        None => Finding::fair(what, "it does not say how much is free"),
    }
}

/// The bridges that machines and the template are connected to.
fn bridges<'b>(server: &'b Proxmox, hardware: Option<&'b Hardware>) -> BTreeSet<&'b String> {
    let of_hardware = hardware.into_iter().flat_map(|hardware| {
        let bridges = hardware.template.bridges();
        bridges.chain(&hardware.bridge)
    });
    of_hardware.chain(&server.target.bridge).collect()
}

async fn network(server: &Proxmox, bridge: &str) -> Finding {
    #[derive(Deserialize)]
    struct Interface {
        iface: String,
    }
    let what = format!("bridge {bridge}");
    let call = Call::get(server.node_path(&["network"])).with("type", "any_bridge");
    let known: Vec<Interface> = match server.client.call(call).await {
        Ok(known) => known,
        Err(failure) => return untold(&what, &failure),
    };
    match known.iter().any(|interface| interface.iface == bridge) {
        true => Finding::good(what, format!("{} has it", server.target.node)),
        false => {
            let names = known.iter().map(|interface| interface.iface.as_str());
            let told = format!("{} has none of this name; ", server.target.node);
            Finding::missing(what, told + &crate::text::suggest(bridge, names))
        }
    }
}

/// Whether there is a free id for a machine.
async fn ids(server: &Proxmox) -> Finding {
    #[derive(Deserialize)]
    struct Guest {
        #[serde(default, deserialize_with = "number::maybe")]
        vmid: Option<u32>,
    }
    let Some(range) = server.target.vmids.clone() else {
        return Finding::good("ids", "any");
    };
    let what = format!("ids {} to {}", range.start(), range.end());
    let call = Call::get(Path::new(["cluster", "resources"])).with("type", "vm");
    let guests: Vec<Guest> = match server.client.call(call).await {
        Ok(guests) => guests,
        Err(failure) => return untold(&what, &failure),
    };
    let taken = |id: &u32| guests.iter().any(|guest| guest.vmid == Some(*id));
    for id in range.filter(|id| !taken(id)).take(TRIES) {
        let call = Call::get(Path::new(["cluster", "nextid"])).with("vmid", id.to_string());
        match server.client.call::<Value>(call).await {
            Ok(_) => return Finding::good(what, format!("{id} is free")),
            Err(failure) if failure.why.status() == Some(400) => {}
            Err(failure) => return untold(&what, &failure),
        }
    }
    Finding::missing(what, "none is free: remove machines, or widen vmid-range")
}

/// What `gc --target` would remove, and what it would leave alone.
async fn leftovers(everywhere: &Everywhere, is_alive: impl Fn(&str) -> bool) -> Vec<Finding> {
    let found = match everywhere.of_builds().await {
        Ok(found) => found,
        Err(failure) => return vec![untold("leftovers", &failure)],
    };
    if found.is_empty() {
        return vec![Finding::good("leftovers", "nothing of a build is there")];
    }
    let told = |Found { lease, resource }: &Found| {
        let until = lease.until.strftime("%F %R UTC");
        match lease.is_over() && !is_alive(&lease.build) {
            true => Finding::fair(
                "leftovers",
                format!(
                    "{resource}, which was over by {until}; `imgbuild gc --target {}` removes it",
                    everywhere.name
                ),
            ),
            false => Finding::good(
                "in use",
                format!("{resource}, which may go on until {until}"),
            ),
        }
    };
    found.iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_cannot_import_images_are_refused() {
        for (version, state) in [
            ("8.4.1", State::Good),
            ("9.1.2", State::Good),
            ("8.3.5", State::Missing),
            ("7.4-3", State::Missing),
            ("10.0", State::Fair),
            ("x", State::Fair),
        ] {
            assert_eq!(judge_version(version).state, state, "{version}");
        }
    }

    #[test]
    fn a_storage_is_told_with_what_mends_it() {
        let known = |content: &str, active: u8| {
            vec![Storage {
                name: "local".into(),
                content: content.into(),
                enabled: Some(1.into()),
                active: Some(active.into()),
                shared: None,
                avail: Some(8 << 30),
                total: None,
            }]
        };
        let found = |known: &[Storage]| storage("local", "import", known);
        assert_eq!(found(&known("iso,import", 1)).told, "8.00 GiB free");
        let told = found(&known("iso,vztmpl", 1)).told;
        assert!(
            told.ends_with("pvesm set local --content iso,vztmpl,import"),
            "{told}"
        );
        assert_eq!(found(&known("import", 0)).state, State::Missing);
        assert!(
            found(&[])
                .told
                .contains("Datastore.Audit on /storage/local")
        );
    }
}
