//! What a build on a target begins from: an image that is brought to its node, or a template that is there already.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sha2::Sha256;

use crate::backend::proxmox::machine::Standing;
use crate::backend::proxmox::{self, Identified, Proxmox, StoredImage};
use crate::error::{Error, Kind, Result};
use crate::plan::Plan;
use crate::record::TemplateFile;
use crate::run::Run;
use crate::source::{self, Algorithm, Basis, Digest, Resolved, Spec, TemplateId, Verified};
use crate::store::registry::{State, Version};
use crate::store::{Dirs, Registry};
use crate::text::hex;

/// What a build begins from.
pub(super) struct Source {
    pub basis: Basis,
    from: From,
}

enum From {
    /// An image that may have to be brought.
    Image(Box<(Resolved, Identified)>),
    Template(Box<Template>),
}

/// A template that is on the target.
pub struct Template {
    pub basis: Basis,
    /// For messages.
    name: String,
    places: Places,
}

/// Where a template is, and how it is known there.
enum Places {
    /// Wherever that file says.
    Version(Box<TemplateFile>),
    /// On this node, under this id.
    At(String, u32, Proof),
}

/// What a template must still be when it is used.
enum Proof {
    /// Of this build.
    Build(String),
    /// The one that the server told this of.
    Identity(BTreeMap<String, String>),
}

impl Source {
    /// Finds out what the plan begins from, and its digest.
    pub async fn find(
        server: &Proxmox,
        plan: &Plan,
        cx: &source::Context<'_>,
        run: &Run,
    ) -> Result<Self> {
        let resolving = source::resolve(&plan.source, cx);
        let resolved = run.phase("resolve", resolving).await?;
        let template = Template::find(server, &plan.source, &resolved, cx.dirs);
        if let Some(template) = run.unless_interrupted(template).await? {
            return Ok(Source {
                basis: template.basis.clone(),
                from: From::Template(Box::new(template)),
            });
        }
        let identified = proxmox::identify(&resolved, cx, run).await?;
        Ok(Source {
            basis: identified.basis.clone(),
            from: From::Image(Box::new((resolved, identified))),
        })
    }

    /// The nodes that the build can go to, if not to any.
    pub async fn nodes(&self, server: &Proxmox) -> Result<Option<Vec<String>>> {
        match &self.from {
            From::Image(_) => Ok(None),
            From::Template(template) => template.nodes(server).await.map(Some),
        }
    }

    /// Sees to it that it is on the build's node, as a volume that the disk of a machine can be a copy of.
    pub async fn bring(
        self,
        server: &Proxmox,
        cx: &source::Context<'_>,
        run: &Run,
    ) -> Result<StoredImage> {
        match self.from {
            From::Image(image) => {
                let (resolved, identified) = *image;
                let brought = proxmox::import(server, &resolved, identified, cx, run).await?;
                Ok(brought.image)
            }
            From::Template(template) => {
                let looking = template.volume(server);
                run.phase("look at the template", looking).await
            }
        }
    }
}

impl Template {
    /// The template that a source stands for; `None` for an image. The server is only asked.
    pub async fn find(
        server: &Proxmox,
        spec: &Spec,
        resolved: &Resolved,
        dirs: &Dirs,
    ) -> Result<Option<Self>> {
        match spec {
            Spec::Built { .. } | Spec::Version { .. } => Template::of_version(resolved).map(Some),
            Spec::Template { template } => Template::named(server, template, dirs).await.map(Some),
            _ => Ok(None),
        }
    }

    /// A version, as the file says that stands for it.
    fn of_version(resolved: &Resolved) -> Result<Self> {
        let doing = || Error::new(format!("building on {}", resolved.origin));
        let (Some(path), Some(expected)) = (resolved.file(), &resolved.expected) else {
            return Err(doing().cause("nothing says what it is"));
        };
        if !TemplateFile::is(path) {
            return Err(doing()
                .kind(Kind::Usage)
                .cause("it is an image on this machine, not on a target"));
        }
        let file = TemplateFile::read_exactly(path, &expected.hex)?;
        Ok(Template {
            basis: Basis {
                path: path.to_owned(),
                origin: file.name.clone(),
                digest: disk(&file)?,
                verified: resolved.verified.clone(),
            },
            name: resolved.origin.clone(),
            places: Places::Version(Box::new(file)),
        })
    }

    /// One that the recipe names. If it is a version of ours, more is known of it than what the server says.
    async fn named(server: &Proxmox, named: &TemplateId, dirs: &Dirs) -> Result<Self> {
        let doing = format!("building on the template {named} on {}", server.target.name);
        let (listed, standing) = server.template_named(named, &doing).await?;
        let (node, vmid) = (listed.node, listed.vmid);
        // Its tags alone do not say so: a clone that somebody has changed and made a template has them, too.
        if let Some(build) = standing.build()
            && let Some((version, file)) = version_of(build, server, dirs, &doing)?
            && file.places().any(|it| (it.node, it.vmid) == (&node, vmid))
        {
            version.refuse_revoked(doing)?;
            let basis = Basis {
                path: version.path.clone(),
                origin: file.name.clone(),
                digest: disk(&file)?,
                verified: Verified::Registry {
                    version: version.name(),
                },
            };
            return Ok(Template {
                basis,
                name: version.name(),
                places: Places::At(node, vmid, Proof::Build(build.to_owned())),
            });
        }
        let identity = standing.identity;
        let basis = Basis {
            path: PathBuf::new(),
            origin: format!(
                "{}api2/json/nodes/{node}/qemu/{vmid}",
                server.target.endpoint
            ),
            digest: digest_of(&identity),
            verified: Verified::Server {
                node: node.clone(),
                vmid,
                name: listed.name,
                identity: identity.clone(),
            },
        };
        Ok(Template {
            basis,
            name: format!("the template {vmid}"),
            places: Places::At(node, vmid, Proof::Identity(identity)),
        })
    }

    fn doing(&self) -> String {
        format!("building on {}", self.name)
    }

    /// Where it is now.
    async fn places(&self, server: &Proxmox) -> Result<Vec<(String, u32)>> {
        match &self.places {
            Places::Version(file) => server.places_of(file, &self.doing()).await,
            Places::At(node, vmid, _) => Ok(vec![(node.clone(), *vmid)]),
        }
    }

    /// The nodes that have it now.
    pub async fn nodes(&self, server: &Proxmox) -> Result<Vec<String>> {
        let places = self.places(server).await?;
        Ok(places.into_iter().map(|(node, _)| node).collect())
    }

    /// Its disk on the target's node.
    pub async fn volume(&self, server: &Proxmox) -> Result<StoredImage> {
        let doing = self.doing();
        let node = &server.target.node;
        let places = self.places(server).await?;
        let Some((_, vmid)) = places.iter().find(|(name, _)| name == node) else {
            let places = places.iter().map(|(name, _)| name.as_str());
            return Err(Error::new(doing)
                .kind(Kind::Conflict)
                .cause(format!(
                    "it is not on {node} any more, but on {}",
                    places.collect::<Vec<_>>().join(", ")
                ))
                .hint("run the build again: it looks for the template anew"));
        };
        let vmid = *vmid;
        let standing = server.standing(vmid).await;
        let standing = standing.map_err(|failure| failure.during(doing.as_str()))?;
        match standing.filter(|standing| self.is(standing)) {
            Some(standing) => Ok(standing.image(&self.basis.digest.hex)),
            None => Err(Error::new(doing)
                .kind(Kind::Conflict)
                .cause(format!(
                    "what has the id {vmid} on {node} is not that template any more"
                ))
                .hint("run the build again: it looks for the template anew")),
        }
    }

    /// Whether this is what it is known by.
    fn is(&self, standing: &Standing) -> bool {
        match &self.places {
            Places::Version(file) => standing.is_of(&file.build),
            Places::At(_, _, Proof::Build(build)) => standing.is_of(build),
            Places::At(_, _, Proof::Identity(identity)) => standing.identity == *identity,
        }
    }
}

/// The content of a version's disk.
fn disk(file: &TemplateFile) -> Result<Digest> {
    let digest = Digest::new(Algorithm::Sha256, &file.disk);
    digest.ok_or_else(|| {
        Error::new(format!("building on {}", file.name)).cause("its file has no digest of its disk")
    })
}

/// One value for what a server says.
fn digest_of(identity: &BTreeMap<String, String>) -> Digest {
    let text = serde_json::json!(identity).to_string();
    Digest {
        algorithm: Algorithm::Sha256,
        hex: hex(&<Sha256 as sha2::Digest>::digest(text)),
    }
}

/// The version that a build on this server has made, if this computer knows it.
fn version_of(
    build: &str,
    server: &Proxmox,
    dirs: &Dirs,
    doing: &str,
) -> Result<Option<(Version, TemplateFile)>> {
    let Some(registry) = Registry::open_existing(dirs)? else {
        return Ok(None);
    };
    let made = |version: &Version| {
        version.build == build && version.state == State::Ready && TemplateFile::is(&version.path)
    };
    let Some(version) = registry.list(None)?.into_iter().find(made) else {
        return Ok(None);
    };
    version.refuse_missing(doing)?;
    let file = TemplateFile::read_exactly(&version.path, &version.sha256)?;
    let is_here = file.endpoint == server.target.endpoint.as_str();
    Ok(is_here.then_some((version, file)))
}
