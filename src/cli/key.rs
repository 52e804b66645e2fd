//! `imgbuild key`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::stdin::on_stdin;
use super::{Global, Output};
use crate::error::{Context, Error, Kind, Result};
use crate::signing::{self, PublicKey, Signing, Trusted};
use crate::store::Dirs;
use crate::ui::Screen;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show the public part of the key that signs, and the keys that are trusted; with --format openssh or pem the public
    /// part alone
    Show,
    /// Sign with a new key from now on; the old one stays trusted
    Rotate,
    /// Trust the signatures of somebody else's key
    #[command(group = clap::ArgGroup::new("what").required(true))]
    Trust {
        /// Public keys, in OpenSSH's format or PEM; `-` for stdin
        #[arg(group = "what")]
        files: Vec<PathBuf>,
        /// No longer trust this key
        #[arg(long, value_name = "FINGERPRINT", group = "what")]
        remove: Option<String>,
    },
}

pub async fn run(arguments: Arguments, global: &Global, screen: Screen) -> Result<()> {
    let dirs = Dirs::from_env()?;
    match arguments.action {
        Action::Show => show(&dirs, global.format, screen),
        Action::Rotate => rotate(&dirs, screen).await,
        Action::Trust {
            remove: Some(fingerprint),
            ..
        } => {
            let mut trusted = Trusted::to_change(&dirs).await?;
            let removed = trusted.remove(&fingerprint)?;
            let text = format!("no longer trusted: {}\n", line(&removed)?);
            screen.result(
                &text,
                &json!({"event": "result", "removed": value(&removed)?}),
            );
            Ok(())
        }
        Action::Trust { files, .. } => trust(&dirs, &files, screen).await,
    }
}

fn show(dirs: &Dirs, format: Output, screen: Screen) -> Result<()> {
    let signing = Signing::from_env(dirs);
    let (path, key) = match signing.public()? {
        Some(found) => found,
        None => {
            let (made, _) = signing::own_key_or_new(dirs)?;
            let path = dirs.signing_key();
            let key = PublicKey::of(made.public_key(), &path.display().to_string())?;
            (path, key)
        }
    };
    match format {
        Output::Openssh => screen.result(&format!("{}\n", key.to_openssh()?), &Value::Null),
        Output::Pem => screen.result(&key.to_pem(), &Value::Null),
        Output::Human | Output::Json => {
            let trusted = Trusted::read(dirs)?.keys;
            let mut text = format!(
                "{}\n{}\n{}\n",
                path.display(),
                line(&key)?,
                key.to_openssh()?
            );
            if !trusted.is_empty() {
                text += "trusted as well:\n";
            }
            for key in &trusted {
                text += &format!("{}\n", line(key)?);
            }
            let trusted: Vec<_> = trusted.iter().map(value).collect::<Result<_>>()?;
            let shown = json!({
                "event": "result", "path": path, "key": value(&key)?, "trusted": trusted,
            });
            screen.result(&text, &shown);
        }
    }
    Ok(())
}

async fn rotate(dirs: &Dirs, screen: Screen) -> Result<()> {
    Signing::from_env(dirs).refuse_given()?;
    let (old, new) = signing::rotate(dirs).await?;
    let mut text = format!(
        "signs from now on: {}\n{}\n",
        line(&new)?,
        new.to_openssh()?
    );
    if let Some(old) = &old {
        text += &format!("still trusted: {}\n", line(old)?);
    }
    let old = old.as_ref().map(value).transpose()?;
    screen.result(
        &text,
        &json!({"event": "result", "key": value(&new)?, "old": old}),
    );
    Ok(())
}

async fn trust(dirs: &Dirs, files: &[PathBuf], screen: Screen) -> Result<()> {
    // One of them may come from a terminal, which nobody shall wait for.
    let keys = join_all(files.iter().map(|file| keys_of(file))).await;
    let mut trusted = Trusted::to_change(dirs).await?;
    for keys in keys {
        for key in keys? {
            let text = match trusted.add(key.clone())? {
                true => format!("trusted: {}\n", line(&key)?),
                false => format!("trusted already: {}\n", line(&key)?),
            };
            screen.result(&text, &json!({"event": "result", "key": value(&key)?}));
        }
    }
    Ok(())
}

/// The public keys in a file; at least one.
pub async fn keys_of(path: &Path) -> Result<Vec<PublicKey>> {
    let shown = path.display().to_string();
    let doing = || format!("reading the public key {shown}");
    let text = match path == Path::new("-") {
        true => on_stdin(|stdin| std::io::read_to_string(stdin)).await,
        false => tokio::fs::read_to_string(path).await,
    };
    let text = text.doing(doing).map_err(|error| error.kind(Kind::Usage))?;
    if text.contains("PRIVATE KEY") {
        return Err(Error::new(doing())
            .kind(Kind::Usage)
            .cause("it is a private key")
            .hint("give its public part: ssh-keygen -y -f FILE"));
    }
    let keys = signing::read_keys(&text, &shown)?;
    match keys.is_empty() {
        true => Err(Error::new(doing())
            .kind(Kind::Usage)
            .cause("there is no key in it")),
        false => Ok(keys),
    }
}

fn line(key: &PublicKey) -> Result<String> {
    Ok(format!("{} {}", key.fingerprint(), key.comment())
        .trim_end()
        .to_owned())
}

fn value(key: &PublicKey) -> Result<Value> {
    Ok(json!({
        "fingerprint": key.fingerprint(), "openssh": key.to_openssh()?, "pem": key.to_pem(),
    }))
}
