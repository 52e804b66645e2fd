//! `imgbuild template list --target`: the templates on a server, as it has them.

use serde_json::{Value, json};

use super::{channels_of, file, tags, versions};
use crate::backend::proxmox::machine::{Drift, Lease, Listed, Located, OURS, Survey};
use crate::backend::proxmox::{COPY, Proxmox, REPLICA, TEMPLATE};
use crate::error::Result;
use crate::record::Place;
use crate::store::Registry;
use crate::store::registry::{Version, name, on_target, reference};
use crate::ui::{Screen, bytes};

/// A template on a server, or one that should be there.
pub struct Template {
    /// The node that it is on, or should be.
    pub node: String,
    pub vmid: u32,
    /// What it is called there, or should be.
    pub name: String,
    pub build: Option<String>,
    /// The channels of a version that the registry knows; else all tags that could be one.
    pub channels: Vec<String>,
    /// Bytes of its disk.
    pub size: Option<u64>,
    /// Whether it is a copy under an id that stays the same.
    pub is_copy: bool,
    /// Whether it is a copy of one on another node.
    pub is_replica: bool,
    /// None if the registry on this machine does not know it.
    pub registered: Option<Registered>,
}

/// What the registry knows of a template.
pub struct Registered {
    /// The version that it is.
    pub name: String,
    /// How it differs from what was written down of it.
    pub drift: Vec<Drift>,
}

impl Template {
    /// A template that the server has and no version of ours is.
    fn unknown(listed: &Listed) -> Self {
        let tags: Vec<&str> = listed.tags.iter().map(String::as_str).collect();
        let (image, number) = listed.name.rsplit_once('-').unwrap_or_default();
        let number = format!("v{number}");
        let is_own = |tag: &&&str| tag.starts_with(OURS) || **tag == image || **tag == number;
        let others = tags.iter().filter(|tag| !is_own(tag));
        let channels = others.filter(|tag| reference::is_channel(tag));
        Template {
            node: listed.node.clone(),
            vmid: listed.vmid,
            name: listed.name.clone(),
            build: Lease::build_in(&tags).map(str::to_owned),
            channels: channels.map(|tag| (*tag).to_owned()).collect(),
            size: listed.disk,
            is_copy: listed.has(COPY),
            is_replica: listed.has(REPLICA),
            registered: None,
        }
    }

    /// One of those of a version, which may be gone.
    async fn known(
        server: &Proxmox,
        place: &Place<'_>,
        (version, all): (&Version, &[Version]),
        survey: &Survey,
    ) -> Result<Self> {
        let (wanted, others) = tags(version, all);
        let here = match survey.find(place) {
            Located::Here(listed) => Some(listed),
            Located::Gone => {
                server.confirm_gone(place).await?;
                None
            }
            _ => None,
        };
        let channels = channels_of(&version.image, all).into_iter();
        let channels = channels.filter(|channel| here.is_some_and(|here| here.has(channel)));
        Ok(Template {
            node: place.node.to_owned(),
            vmid: place.vmid,
            name: here.map_or(&place.file.name, |here| &here.name).clone(),
            build: Some(version.build.clone()),
            channels: channels.cloned().collect(),
            size: Some(place.file.size),
            is_copy: false,
            is_replica: place.is_replica(),
            registered: Some(Registered {
                name: version.name(),
                drift: survey.drift(place, &wanted, &others),
            }),
        })
    }

    /// For people, in a line.
    fn line(&self, width: usize, with_node: bool) -> String {
        let mut about = vec![];
        if with_node {
            about.push(format!("on {}", self.node));
        }
        if !self.channels.is_empty() {
            about.push(self.channels.join(" "));
        }
        about.extend(self.build.as_ref().map(|build| format!("build {build}")));
        if self.is_copy {
            about.push("a copy under an id that stays the same".to_owned());
        }
        if self.is_replica {
            about.push("a copy for this node".to_owned());
        }
        match &self.registered {
            None => about.push("not in the registry here".to_owned()),
            Some(known) => about.extend(known.drift.iter().map(Drift::to_string)),
        }
        let name = self.called();
        let size = self.size.map(bytes).unwrap_or_default();
        format!(
            "{:>5}  {name:width$}  {size:>10}  {}\n",
            self.vmid,
            about.join(", ")
        )
    }

    /// What the registry calls it, else the server.
    fn called(&self) -> &str {
        let known = self.registered.as_ref();
        known.map_or(&self.name, |known| &known.name)
    }

    /// For programs.
    fn value(&self) -> Value {
        let known = self.registered.as_ref();
        let drift = known.map(|known| {
            let drift = known.drift.iter().map(Drift::to_string);
            drift.collect::<Vec<_>>()
        });
        json!({
            "node": self.node, "vmid": self.vmid, "name": self.name, "build": self.build, "channels": self.channels,
            "size": self.size, "copy": self.is_copy, "replica": self.is_replica, "version": known.map(|known| &known.name), "drift": drift,
        })
    }
}

/// Templates, in lines for people and for programs.
pub fn told(server: &Proxmox, templates: &[Template]) -> (String, Value) {
    let names = templates.iter().map(|template| template.called().len());
    let width = names.max().unwrap_or(0);
    let with_node = server.target.has_several_nodes();
    let lines = templates
        .iter()
        .map(|template| template.line(width, with_node));
    let values = templates.iter().map(Template::value);
    (lines.collect(), values.collect())
}

/// All templates that imgbuild has made on a server, and those that should be there.
pub async fn all(server: &Proxmox, registry: &Registry, survey: &Survey) -> Result<Vec<Template>> {
    let target = &server.target.name;
    let known = versions(registry, |image| {
        on_target(image).is_some_and(|(other, _)| other == target)
    })?;
    let mut templates = vec![];
    for version in &known {
        // What cannot be read, or is on another server, tells nothing of this one.
        let Ok(file) = file(server, version) else {
            continue;
        };
        for place in file.places() {
            let version = (version, known.as_slice());
            templates.push(Template::known(server, &place, version, survey).await?);
        }
    }
    let is_ours = |listed: &&Listed| {
        let is_finished = listed.has(TEMPLATE) || listed.has(COPY);
        listed.is_template && listed.has(OURS) && is_finished
    };
    for listed in survey.here.iter().filter(is_ours) {
        let mut template = Template::unknown(listed);
        if templates.iter().any(|other| is_same(other, &template)) {
            continue;
        }
        if let (true, Some(version)) = (template.is_copy, of_build(&known, &template)) {
            template.registered = Some(Registered {
                name: version.name(),
                drift: vec![],
            });
        }
        templates.push(template);
    }
    templates.sort_by_key(|template| template.vmid);
    Ok(templates)
}

fn is_same(one: &Template, other: &Template) -> bool {
    one.vmid == other.vmid && one.build == other.build
}

fn of_build<'v>(known: &'v [Version], template: &Template) -> Option<&'v Version> {
    let build = template.build.as_ref()?;
    known.iter().find(|version| version.build == *build)
}

/// The newest version of an image, and how its template and the copies differ from what was written down of them.
pub async fn newest(
    server: &Proxmox,
    registry: &Registry,
    image: &str,
    survey: &Survey,
) -> Result<Option<(String, Vec<String>)>> {
    let all = versions(registry, |other| other == image)?;
    let Some(version) = all.last() else {
        return Ok(None);
    };
    let drift = match file(server, version) {
        Ok(file) => {
            let mut told = vec![];
            for place in file.places() {
                let template = Template::known(server, &place, (version, &all), survey).await?;
                let known = template.registered.into_iter();
                let drift = known.flat_map(|known| known.drift);
                told.extend(drift.map(|drift| drift.of(&place)));
            }
            told
        }
        Err(error) => vec![error.to_string()],
    };
    Ok(Some((version.name(), drift)))
}

/// Lists the templates on a target, or those of one image.
pub async fn list(
    server: &Proxmox,
    registry: &Registry,
    image: Option<&str>,
    screen: Screen,
) -> Result<()> {
    let target = &server.target.name;
    let survey = server.survey().await;
    let survey =
        survey.map_err(|failure| failure.during(format!("listing the templates on {target}")))?;
    for node in &survey.offline {
        screen.note(&format!("{node} is offline, and not looked at"));
    }
    let mut templates = all(server, registry, &survey).await?;
    if let Some(image) = image {
        let registered = name(image, Some(target));
        templates.retain(|template| template.is_of(image, &registered));
    }
    let (text, value) = told(server, &templates);
    let text = match text.is_empty() {
        true => format!("no templates on {target}\n"),
        false => text,
    };
    let value = json!({"event": "result", "target": target, "templates": value});
    screen.result(&text, &value);
    Ok(())
}

impl Template {
    /// Whether it is a version of an image, which the registry calls `registered`.
    fn is_of(&self, image: &str, registered: &str) -> bool {
        let (name, end, image) = match &self.registered {
            Some(known) => (&known.name, '@', registered),
            None => (&self.name, '-', image),
        };
        name.rsplit_once(end).is_some_and(|(name, _)| name == image)
    }
}
