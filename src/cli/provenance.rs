//! `imgbuild provenance`.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Global, key};
use crate::error::{Context, Error, Kind, Result};
use crate::provenance::dsse::{Envelope, pae};
use crate::provenance::policy::Policy;
use crate::provenance::statement::{Kinds, Statement};
use crate::provenance::verify::{self, Beside, Check};
use crate::provenance::{Files, SSH_NAMESPACE, file_name, one_line};
use crate::record;
use crate::run::{Events, Interrupt};
use crate::signing::{PublicKey, Signing, Trusted};
use crate::store::{Dirs, Registry, write_atomically};
use crate::ui::{self, Screen};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what an image was made from, as the file beside it says; nothing is checked
    Show {
        /// The image
        image: PathBuf,
    },
    /// Check an image, its signature, and whether it is what a policy demands
    Verify {
        /// The image
        image: PathBuf,
        /// Trust this public key only, instead of one's own and those of `imgbuild key trust`
        #[arg(long, value_name = "FILE")]
        key: Vec<PathBuf>,
        /// A TOML file with rules, see docs/provenance.md
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
    /// Write what OpenSSL and ssh-keygen need to check the signature, into a folder
    Export {
        /// The image
        image: PathBuf,
        /// Where to
        folder: PathBuf,
        /// Trust this public key only
        #[arg(long, value_name = "FILE")]
        key: Vec<PathBuf>,
    },
}

/// Checks the signature over what was exported.
const OPENSSL: &str =
    "openssl pkeyutl -verify -pubin -inkey key.pem -rawin -in statement.pae -sigfile statement.sig";

/// A file beside an image that is larger is none of ours.
const LARGEST: u64 = 256 << 20;

pub async fn run(
    arguments: Arguments,
    global: &Global,
    screen: Screen,
    interrupt: &Interrupt,
) -> Result<()> {
    match arguments.action {
        Action::Show { image } => show(&image, screen),
        Action::Verify { image, key, policy } => {
            let observer = ui::observer(global.format(), global.verbose > 0);
            let events = Events::new("verify", vec![observer]);
            let verified = verify(&image, &key, policy.as_deref(), &events, screen);
            interrupt.or(verified).await
        }
        Action::Export { image, folder, key } => {
            interrupt.or(export(&image, &folder, &key, screen)).await
        }
    }
}

/// An image's file, where its name may be a link to it.
fn located(image: &Path) -> Result<PathBuf> {
    let located = image.canonicalize();
    located
        .doing(|| format!("looking at {}", image.display()))
        .map_err(|error| error.kind(Kind::Usage))
}

/// A file beside an image; `None` if it is not there.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let doing = || format!("reading {}", path.display());
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.doing(doing)?,
    };
    let mut bytes = vec![];
    file.take(LARGEST).read_to_end(&mut bytes).doing(doing)?;
    Ok(Some(bytes))
}

/// The signed envelope, without which nothing is known.
fn envelope(path: &Path) -> Result<Vec<u8>> {
    read(path)?.ok_or_else(|| {
        Error::new(format!("reading {}", path.display()))
            .kind(Kind::Verification)
            .cause("the image has no signed provenance beside it")
            .hint("move an image together with the files that are named like it")
    })
}

/// The keys that are believed: those that are named, else our own and those that we trust.
async fn trusted(named: &[PathBuf]) -> Result<Vec<PublicKey>> {
    if !named.is_empty() {
        let keys = try_join_all(named.iter().map(|path| key::keys_of(path)));
        return Ok(keys.await?.concat());
    }
    let dirs = Dirs::from_env()?;
    let mut keys = Trusted::read(&dirs)?.keys;
    keys.extend(Signing::from_env(&dirs).public()?.map(|(_, key)| key));
    Ok(keys)
}

async fn verify(
    image: &Path,
    keys: &[PathBuf],
    policy: Option<&Path>,
    events: &Events,
    screen: Screen,
) -> Result<()> {
    let policy = policy.map(read_policy).transpose()?;
    let keys = trusted(keys).await?;
    let path = located(image)?;
    let files = Files::of(&path);
    let signed = match verify::signature(&envelope(&files.envelope)?, &keys) {
        Ok(signed) => signed,
        // Whatever else it says is worth nothing.
        Err(check) => return tell(image, None, &[check], screen),
    };
    let began = Instant::now();
    events.started("digest");
    let sha256 = record::digest(path.clone(), events).await;
    events.ended("digest", began.elapsed(), sha256.is_ok());
    let sha256 = sha256?;
    let (statement, bundle) = (read(&files.statement)?, read(&files.bundle)?);
    let mut others = vec![];
    for other in [&files.cyclonedx, &files.spdx, &record::path(&path)] {
        if let Some(bytes) = read(other)? {
            others.push((file_name(other), bytes));
        }
    }
    let mut checks = signed.check(&Beside {
        file: &file_name(&path),
        sha256: &sha256,
        statement: statement.as_deref(),
        bundle: bundle.as_deref(),
        others: &others,
        policy: policy.as_ref(),
        now: Timestamp::now(),
    });
    checks.extend(revocation(&path, &sha256)?);
    tell(image, Some(&signed.signer), &checks, screen)
}

/// Whether it was revoked, as far as the registry here knows the image.
fn revocation(image: &Path, sha256: &str) -> Result<Option<Check>> {
    let Some(registry) = Registry::open_existing(&Dirs::from_env()?)? else {
        return Ok(None);
    };
    let version = registry.known(image, sha256)?;
    Ok(version.map(|version| {
        let name = version.name();
        let told = match &version.revoked {
            None => format!("{name} is not revoked in the registry here"),
            Some(revoked) => {
                let day = revoked.at.strftime("%Y-%m-%d");
                format!("{name} was revoked on {day}: {}", revoked.reason)
            }
        };
        Check::new("revoked", version.revoked.is_none(), told)
    }))
}

fn read_policy(path: &Path) -> Result<Policy> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).doing(|| format!("reading the policy {shown}"));
    Policy::read(&text.map_err(|error| error.kind(Kind::Usage))?, &shown)
}

/// Prints every rule, and fails if one does not hold.
fn tell(image: &Path, signer: Option<&PublicKey>, checks: &[Check], screen: Screen) -> Result<()> {
    let broken: Vec<&Check> = checks.iter().filter(|check| !check.holds).collect();
    let mut text = String::new();
    for check in checks {
        let state = if check.holds { "ok    " } else { "FAILED" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{state}  {}: {}", check.rule, check.told);
    }
    let value = json!({
        "event": "result", "image": image, "verified": broken.is_empty(),
        "signer": signer.map(PublicKey::fingerprint), "checks": checks,
    });
    screen.result(&text, &value);
    let names: Vec<&str> = broken.iter().map(|check| check.rule.as_str()).collect();
    let Some(first) = broken.first() else {
        return Ok(());
    };
    let cause = match broken.len() {
        1 => format!("{}: {}", first.rule, first.told),
        n => format!("{n} rules do not hold: {}", names.join(", ")),
    };
    let error = Error::new(format!("verifying {}", image.display()))
        .kind(Kind::Verification)
        .cause(cause);
    Err(match signer {
        None if first.rule == "signature" => error
            .hint("whose key that is can only its owner say; `imgbuild key trust FILE` trusts it"),
        _ => error,
    })
}

fn show(image: &Path, screen: Screen) -> Result<()> {
    let files = Files::of(&located(image)?);
    let envelope = Envelope::read(&envelope(&files.envelope)?)?;
    let payload = envelope.payload()?;
    let statement = Statement::read(&payload)?;
    let value: Value = serde_json::from_slice(&payload).doing(|| "reading the provenance")?;
    let keys = envelope.signatures.iter();
    let keys: Vec<&str> = keys.map(|signature| signature.keyid.as_str()).collect();
    let text = summary(&statement, &keys.join(", "));
    screen.result(&text, &json!({"event": "result", "statement": value}));
    Ok(())
}

/// A statement for people.
fn summary(statement: &Statement, keys: &str) -> String {
    let definition = &statement.predicate.build_definition;
    let (external, run) = (
        &definition.external_parameters,
        &statement.predicate.run_details,
    );
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        text += &format!("{name:<10}{}\n", one_line(value));
    };
    for subject in &statement.subject {
        let sha256 = subject.digest.get("sha256").map_or("", String::as_str);
        line("image", &format!("{} sha256:{sha256}", subject.name));
    }
    line("version", &external.image.version);
    line(
        "built",
        &format!(
            "{} to {}",
            run.metadata.started_on, run.metadata.finished_on
        ),
    );
    line("recipe", &external.recipe);
    line("signed by", &format!("{keys} (not checked)"));
    for dependency in &definition.resolved_dependencies {
        let about = &dependency.annotations;
        let digest = dependency.digest.iter().next();
        let digest = digest.map_or(String::new(), |(name, hex)| {
            format!(" {name}:{}", hex.get(..12).unwrap_or(hex))
        });
        let place = dependency.uri.as_deref().unwrap_or(&dependency.name);
        let verified = about.verified.as_ref();
        let verified = verified.and_then(|verified| serde_json::to_value(verified).ok());
        let verified = verified.map_or(String::new(), |verified| {
            format!(
                ", verified by {}",
                verified["by"].as_str().unwrap_or_default()
            )
        });
        let dirty = match (about.kind, about.dirty) {
            (Kinds::Repository, Some(true)) => ", with changes",
            _ => "",
        };
        let kind = serde_json::to_value(about.kind).unwrap_or_default();
        let kind = kind.as_str().unwrap_or_default();
        line("from", &format!("{kind} {place}{digest}{verified}{dirty}"));
    }
    for byproduct in &run.byproducts {
        line("beside", &byproduct.name);
    }
    text
}

async fn export(image: &Path, folder: &Path, keys: &[PathBuf], screen: Screen) -> Result<()> {
    let keys = trusted(keys).await?;
    let files = Files::of(&located(image)?);
    let text = envelope(&files.envelope)?;
    let signed = match verify::signature(&text, &keys) {
        Ok(signed) => signed,
        Err(check) => return tell(image, None, &[check], screen),
    };
    let envelope = Envelope::read(&text)?;
    let key = signed.signer.to_openssh()?;
    let signers = format!("imgbuild namespaces=\"{SSH_NAMESPACE}\" {key}\n");
    let mut all = vec![
        ("statement.json", signed.payload.clone()),
        (
            "statement.pae",
            pae(&envelope.payload_type, &signed.payload),
        ),
        ("statement.sig", envelope.signature_of(&signed.signer)?),
        ("key.pem", signed.signer.to_pem().into_bytes()),
        ("allowed_signers", signers.into_bytes()),
    ];
    let mut told = format!("{OPENSSL}\n");
    // OpenSSH signs other bytes than DSSE does, so that needs the private key once more.
    let events = Events::new("export", vec![]);
    let dirs = Dirs::from_env()?;
    let signing = Signing::from_env(&dirs);
    let ours = signing
        .public()?
        .is_some_and(|(_, key)| key == signed.signer);
    if ours {
        let signer = signing.signer(None, &events).await?;
        let signature = signer.sign_as_ssh(SSH_NAMESPACE, &signed.payload).await?;
        all.push(("statement.json.sig", signature.into_bytes()));
        told += &format!(
            "ssh-keygen -Y verify -f allowed_signers -I imgbuild -n {SSH_NAMESPACE} -s statement.json.sig <statement.json\n"
        );
    }
    for (name, bytes) in &all {
        write_atomically(&folder.join(name), bytes)?;
    }
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let text = format!("{}: {}\n{told}", folder.display(), names.join(", "));
    screen.result(
        &text,
        &json!({"event": "result", "folder": folder, "files": names}),
    );
    Ok(())
}
