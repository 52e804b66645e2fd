//! `imgbuild.toml`: what a project says besides its recipes, which is where images go: `[targets.NAME]`.

mod check;
mod environment;
mod secrets;
mod types;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;
use toml::Spanned as Place;
use toml::de::DeValue;

use crate::backend::proxmox::{self, Credentials, Proxmox};
use crate::error::{Context, Error, Fault, Faults, Kind, Result, Source, Sources};
use crate::recipe::document::{self, Texts};
use crate::recipe::{Spanned, decode, suggest};
use crate::secret::{self, SecretSource};
use environment::Environment;

/// The project file's name.
pub const FILE: &str = "imgbuild.toml";

/// A project file, read and valid.
#[derive(Debug)]
pub struct Project {
    path: PathBuf,
    sources: Sources,
    targets: BTreeMap<String, Spanned<types::Target>>,
}

/// A place that images go to, with all that is needed to reach it. What it is about is in `remote`; how to log in is known,
/// but not fetched yet.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server, and what of it is used.
    pub remote: proxmox::Target,
    /// Where the endpoint comes from, as a user knows it.
    pub endpoint_from: String,
    login: Login,
}

/// How to log in.
#[derive(Debug, Clone)]
enum Login {
    Token(Value),
    Password { user: String, password: Value },
}

/// A secret value: where it is to be had, or itself when the environment of the field has it.
#[derive(Debug, Clone)]
enum Value {
    Source(SecretSource),
    /// With the name of the variable.
    Known(SecretString, String),
}

impl Project {
    /// Reads the project file in `folder`.
    ///
    /// Errors: there is none, or something is wrong with it ([`Kind::Usage`]).
    pub fn load(folder: &Path) -> Result<Self> {
        Project::read_as(FILE, &folder.join(FILE)).map_err(|error| match error.get_faults() {
            Some(_) => error,
            None => error.hint(
                "targets are described in imgbuild.toml in the current folder, see docs/proxmox.md",
            ),
        })
    }

    /// Reads a project file by its path.
    pub fn read(path: &Path) -> Result<Self> {
        Project::read_as(&path.display().to_string(), path)
    }

    /// Reads a file that errors call `name`.
    fn read_as(name: &str, path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .doing(|| format!("reading {name}"))
            .map_err(|error| error.kind(Kind::Usage))?;
        Project::parse(name, path.to_owned(), text)
    }

    fn parse(name: &str, path: PathBuf, text: String) -> Result<Self> {
        let (texts, mut faults) = (Texts::new(), vec![]);
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        let document = document::parse(
            name,
            text.clone(),
            Some(&folder),
            &texts,
            &mut Sources::default(),
            &mut faults,
        );
        let mut shown = secrets::masked(&text);
        let targets = document.and_then(|document| {
            let before = faults.len();
            secrets::refuse_literals(&document, &mut shown, &mut faults);
            if faults.len() > before {
                return None;
            }
            let value = Place::new(0..text.len(), DeValue::Table(document));
            decode::decode::<types::Project>(value, &mut faults)
        });
        // The text is shown with every fault in it.
        let mut sources = Sources::default();
        sources.add(Source {
            name: name.into(),
            text: Arc::from(shown),
            folder: Some(Arc::from(folder.as_path())),
        });
        let targets = targets.map(|project| project.targets).unwrap_or_default();
        for target in targets.values() {
            check::target(target.get_ref(), &mut faults);
        }
        match faults.is_empty() {
            true => Ok(Project {
                path,
                sources,
                targets,
            }),
            false => {
                faults.sort_by_key(|fault| fault.span.start);
                Err(Error::invalid(Faults {
                    sources,
                    list: faults,
                }))
            }
        }
    }

    /// The target of this name, completed by what the environment says.
    pub fn target(&self, name: &str) -> Result<Target> {
        self.target_with(name, &Environment::of_process())
    }

    fn target_with(&self, name: &str, environment: &Environment) -> Result<Target> {
        let Some(written) = self.targets.get(name) else {
            let known = self.targets.keys().map(String::as_str);
            let error = Error::new(format!("looking for the target {name}")).kind(Kind::Usage);
            return Err(match self.targets.is_empty() {
                true => error.cause(format!("{} has no targets", self.sources.name())),
                false => error
                    .cause(format!("{} has none of this name", self.sources.name()))
                    .hint(suggest(name, known)),
            });
        };
        let place = written.span();
        let target = written.get_ref();
        let missing = |message: String, hint: String| {
            Error::invalid(Faults {
                sources: self.sources.clone(),
                list: vec![Fault::new(place.clone(), message).hint(hint)],
            })
        };
        let endpoint = environment.endpoint(target.endpoint.as_ref().map(Spanned::get_ref));
        let endpoint = endpoint.ok_or_else(|| {
            let hint = format!(
                "write endpoint = \"https://HOST:8006\", or set one of {}",
                environment::ENDPOINTS.join(", ")
            );
            missing(format!("the target {name} has no endpoint"), hint)
        })?;
        let url = proxmox::endpoint(&endpoint.value).map_err(|why| {
            Error::new(format!("using the endpoint from {}", endpoint.from))
                .kind(Kind::Usage)
                .cause(why)
        })?;
        let login = self.login(target, environment).ok_or_else(|| {
            let hint = format!(
                "write token = {{ env = \"NAME\" }}, or set {}",
                environment::TOKENS
            );
            missing(format!("the target {name} has no login"), hint)
        })?;
        tracing::debug!(
            "target {name}: endpoint from {}, login from {}",
            endpoint.from,
            login.told()
        );
        Ok(Target {
            remote: proxmox::Target {
                name: name.to_owned(),
                project: self.path.clone(),
                endpoint: url,
                node: target.node.get_ref().clone(),
                trust: self.trust(target)?,
                import: target.storages.import.get_ref().clone(),
                images: text(&target.storages.images),
                iso: text(&target.storages.iso),
                bridge: text(&target.bridge),
                vmids: target
                    .vmid_range
                    .as_ref()
                    .map(|range| range.get_ref().clone()),
                layers: target.layers.unwrap_or(proxmox::LAYERS),
                is_auto: target.node.get_ref() == proxmox::AUTO,
                builds_per_node: match &target.builds_per_node {
                    Some(builds) => *builds.get_ref(),
                    None => proxmox::BUILDS_PER_NODE,
                },
                replicate: target
                    .replicate
                    .iter()
                    .map(|node| node.get_ref().clone())
                    .collect(),
            },
            endpoint_from: endpoint.from,
            login,
        })
    }

    fn login(&self, target: &types::Target, environment: &Environment) -> Option<Login> {
        if let Some(token) = &target.token {
            environment.unused_login();
            return Some(Login::Token(self.secret(token.get_ref())));
        }
        if let (Some(user), Some(password)) = (&target.user, &target.password) {
            environment.unused_login();
            return Some(Login::Password {
                user: user.get_ref().clone(),
                password: self.secret(password.get_ref()),
            });
        }
        environment.login()
    }

    fn secret(&self, secret: &types::Secret) -> Value {
        let path = |file: &Spanned<String>| self.folder().join(file.get_ref());
        Value::Source(match (text(&secret.env), &secret.file) {
            (Some(name), _) => SecretSource::Env(name),
            (None, Some(file)) => SecretSource::File(path(file)),
            (None, None) => SecretSource::Command {
                line: text(&secret.command).unwrap_or_default(),
                folder: self.folder(),
            },
        })
    }

    fn trust(&self, target: &types::Target) -> Result<proxmox::Trust> {
        if let Some(fingerprint) = &target.fingerprint {
            return Ok(proxmox::Trust::Fingerprint(*fingerprint.get_ref()));
        }
        let Some(ca) = &target.ca else {
            return Ok(proxmox::Trust::System);
        };
        let path = self.folder().join(ca.get_ref());
        let pem = std::fs::read(&path)
            .doing(|| format!("reading the certificates in {}", path.display()))
            .map_err(|error| error.kind(Kind::Usage))?;
        Ok(proxmox::Trust::Authorities { pem, path })
    }

    fn folder(&self) -> PathBuf {
        self.path.parent().map(Path::to_owned).unwrap_or_default()
    }
}

impl Target {
    /// Fetches the secret that it needs, and makes a client of it. Nothing is asked of the server yet, so of a target on
    /// [any node](proxmox::AUTO) none is chosen yet.
    pub async fn connect(&self) -> Result<Proxmox> {
        let credentials = self.login.fetch(&self.remote.name).await?;
        Proxmox::new(self.remote.clone(), credentials)
    }

    /// Where its login comes from, as a user knows it.
    pub fn login_from(&self) -> String {
        self.login.told()
    }
}

impl Login {
    async fn fetch(&self, target: &str) -> Result<Credentials> {
        match self {
            Login::Token(value) => {
                let what = format!("the token of the target {target}");
                let token = value.fetch(&what).await?;
                Credentials::token(&token).map_err(|why| {
                    Error::new(format!("using {what} from {}", value.told()))
                        .kind(Kind::Usage)
                        .cause(why)
                        .hint("a token is USER@REALM!NAME=SECRET, as `pveum user token add` prints its two parts")
                })
            }
            Login::Password { user, password } => {
                let what = format!("the password of the target {target}");
                let password = password.fetch(&what).await?;
                Ok(Credentials::Password {
                    user: user.clone(),
                    password,
                })
            }
        }
    }

    fn told(&self) -> String {
        match self {
            Login::Token(value) => value.told(),
            Login::Password { password, .. } => password.told(),
        }
    }
}

impl Value {
    async fn fetch(&self, what: &str) -> Result<SecretString> {
        match self {
            Value::Source(source) => secret::fetch(what, source).await,
            Value::Known(value, _) => Ok(value.clone()),
        }
    }

    fn told(&self) -> String {
        match self {
            Value::Source(SecretSource::Env(name)) => format!("{name} (named in {FILE})"),
            Value::Source(SecretSource::File(path)) => path.display().to_string(),
            Value::Source(SecretSource::Command { .. }) => format!("a command in {FILE}"),
            Value::Known(_, variable) => format!("{variable} in the environment"),
        }
    }
}

fn text(value: &Option<Spanned<String>>) -> Option<String> {
    value.as_ref().map(|value| value.get_ref().clone())
}

#[cfg(test)]
mod tests;
