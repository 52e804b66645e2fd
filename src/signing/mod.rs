//! Who signs, and whose signatures are believed: ed25519 keys in OpenSSH's formats.

mod agent;
mod own;
mod public;
mod trusted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ring::signature::Ed25519KeyPair;
use secrecy::{ExposeSecret, SecretString};
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, Signature, SshSig};
use tokio::sync::Mutex;

pub use agent::Agent;
pub use own::{open as own_key, open_or_create as own_key_or_new, rotate};
pub use public::PublicKey;
pub use trusted::{Trusted, keys as read_keys};

use crate::error::{Context, Error, Kind, Result};
use crate::run::{Events, terminal};
use crate::store::Dirs;

/// What says which key signs, instead of `[signing] key`.
const KEY: &str = "IMGBUILD_SIGNING_KEY";
/// What says the passphrase of a key that has one.
pub const PASSPHRASE: &str = "IMGBUILD_SIGNING_PASSPHRASE";

/// What an agent is asked to sign first, to see whether it does. It means nothing.
const TRIAL: &[u8] = b"imgbuild asks whether this key signs";
/// How long to wait before an agent is asked again: nobody who has just typed a passphrase notices.
const PAUSE: Duration = Duration::from_millis(500);

/// Somebody who can sign.
#[derive(Debug)]
pub struct Signer {
    public: PublicKey,
    private: Private,
}

enum Private {
    Here(Ed25519KeyPair),
    Agent(Agent),
}

impl std::fmt::Debug for Private {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Private::Here(_) => "Here",
            Private::Agent(_) => "Agent",
        })
    }
}

impl Signer {
    /// Whoever has this key, which has no passphrase any more.
    pub fn new(key: &PrivateKey, shown: &str) -> Result<Self> {
        let public = PublicKey::of(key.public_key(), shown)?;
        let failed = |cause: &str| {
            Error::new(format!("using the signing key {shown}"))
                .kind(Kind::Usage)
                .cause(cause)
        };
        let pair = key.key_data().ed25519();
        let pair = pair.ok_or_else(|| failed("it is no ed25519 key"))?;
        let (seed, public_bytes) = (pair.private.as_ref(), &pair.public.0);
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public_bytes);
        let pair = pair.map_err(|_| failed("its halves do not belong together"))?;
        Ok(Signer {
            public,
            private: Private::Here(pair),
        })
    }

    /// Who that is.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Waits, at most for `patience`, until the key is where it was: an agent may have ended, be locked or have forgotten the
    /// key. `told` hears why, if that takes waiting.
    ///
    /// Errors: the same, when it was waited for in vain.
    pub async fn until_ready(&self, patience: Duration, told: impl FnOnce(&Error)) -> Result<()> {
        let Err(why) = self.ready().await else {
            return Ok(());
        };
        told(&why);
        let ready = async {
            while self.ready().await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        let ready = tokio::time::timeout(patience, ready).await;
        ready.map_err(|_| why)
    }

    async fn ready(&self) -> Result<()> {
        let Private::Agent(agent) = &self.private else {
            return Ok(());
        };
        match agent.holds(&self.public).await? {
            true => Ok(()),
            false => Err(agent.failed("it does not hold the key any more")),
        }
    }

    /// Signs a message: 64 bytes.
    pub async fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let signature = match &self.private {
            Private::Here(pair) => pair.sign(message).as_ref().to_vec(),
            Private::Agent(agent) => agent.sign(&self.public, message).await?,
        };
        match self.public.has_signed(message, &signature) {
            true => Ok(signature),
            false => Err(Error::new("signing").cause(format!(
                "what came is no signature of {}",
                self.public.fingerprint()
            ))),
        }
    }

    /// Signs a message as `ssh-keygen -Y sign -n NAMESPACE` does.
    pub async fn sign_as_ssh(&self, namespace: &str, message: &[u8]) -> Result<String> {
        let doing = || "writing an SSH signature";
        let hash = HashAlg::Sha512;
        let wrapped = SshSig::signed_data(namespace, hash, message).doing(doing)?;
        let signature = Signature::new(Algorithm::Ed25519, self.sign(&wrapped).await?);
        let signature = signature.doing(doing)?;
        let signature = SshSig::new(self.public.data(), namespace, hash, signature);
        signature.doing(doing)?.to_pem(LineEnding::LF).doing(doing)
    }
}

/// How a user wants to sign. Each key is unlocked once, however many builds it signs.
pub struct Signing {
    dirs: Dirs,
    key: Option<PathBuf>,
    passphrase: Option<SecretString>,
    agent: Option<Agent>,
    unlocked: Mutex<BTreeMap<PathBuf, Arc<Signer>>>,
}

impl Signing {
    /// As this process's environment says.
    pub fn from_env(dirs: &Dirs) -> Self {
        let key = std::env::var_os(KEY).filter(|key| !key.is_empty());
        Signing {
            dirs: dirs.clone(),
            key: key.map(PathBuf::from),
            passphrase: std::env::var(PASSPHRASE).ok().map(SecretString::from),
            agent: Agent::from_env(),
            unlocked: Mutex::default(),
        }
    }

    /// Refuses to make a new key of our own where the environment says that another signs.
    pub fn refuse_given(&self) -> Result<()> {
        match &self.key {
            None => Ok(()),
            Some(path) => Err(Error::new("making a new signing key")
                .kind(Kind::Usage)
                .cause(format!("{KEY} says that {} signs", path.display()))
                .hint(format!(
                    "let {KEY} name another key, or unset it to replace imgbuild's own"
                ))),
        }
    }

    /// The public part of the key that signs, and where that is; the recipe's do not count. `None` if it is not made yet.
    pub fn public(&self) -> Result<Option<(PathBuf, PublicKey)>> {
        let Some(path) = &self.key else {
            let own = own_key(&self.dirs)?;
            let path = self.dirs.signing_key();
            let shown = path.display().to_string();
            let public = own.map(|key| PublicKey::of(key.public_key(), &shown));
            return Ok(public.transpose()?.map(|key| (path, key)));
        };
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let key = match text.starts_with("ssh-") {
            true => PublicKey::read(&text, &shown)?,
            false => PublicKey::of(own::read(path)?.public_key(), &shown)?,
        };
        Ok(Some((path.clone(), key)))
    }

    /// Who signs: the environment's key, else the recipe's, else our own, which is made at first use.
    pub async fn signer(&self, recipes: Option<&Path>, events: &Events) -> Result<Arc<Signer>> {
        if let Some(passphrase) = &self.passphrase {
            events.mask(passphrase.expose_secret());
        }
        let given = self.key.as_deref().or(recipes);
        let own = self.dirs.signing_key();
        let path = given.unwrap_or(&own);
        let mut unlocked = self.unlocked.lock().await;
        if let Some(signer) = unlocked.get(path) {
            return Ok(signer.clone());
        }
        let signer = match given {
            Some(path) => self.given(path, events).await?,
            None => {
                let (key, made) = own_key_or_new(&self.dirs)?;
                let signer = self.unlock(&key, path, events).await?;
                if made {
                    let line = signer.public.to_openssh()?;
                    let place = path.display();
                    events.note(format!(
                        "made a signing key, {place}; whoever verifies needs its public part:\n  {line}"
                    ));
                }
                signer
            }
        };
        let signer = Arc::new(signer);
        unlocked.insert(path.to_owned(), signer.clone());
        Ok(signer)
    }

    /// The owner of a private key, or, for a public one, the agent that holds the private one.
    async fn given(&self, path: &Path, events: &Events) -> Result<Signer> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if !text.starts_with("ssh-") {
            return self.unlock(&own::read(path)?, path, events).await;
        }
        let public = PublicKey::read(&text, &shown)?;
        match self.by_agent(&public).await? {
            Some(signer) => Ok(signer),
            None => Err(Error::new(format!("signing with {shown}"))
                .kind(Kind::Usage)
                .cause("it is a public key, and no ssh-agent holds its private part")
                .hint("`ssh-add` the private key, or name the private key's file")),
        }
    }

    async fn by_agent(&self, public: &PublicKey) -> Result<Option<Signer>> {
        let Some(agent) = &self.agent else {
            return Ok(None);
        };
        if !agent.holds(public).await? {
            return Ok(None);
        }
        let signer = Signer {
            public: public.clone(),
            private: Private::Agent(agent.clone()),
        };
        // It may hold keys that it does not sign this with, such as those that are for certain hosts only.
        signer.sign(TRIAL).await?;
        Ok(Some(signer))
    }

    async fn unlock(&self, key: &PrivateKey, path: &Path, events: &Events) -> Result<Signer> {
        let shown = path.display().to_string();
        if !key.is_encrypted() {
            return Signer::new(key, &shown);
        }
        let public = PublicKey::of(key.public_key(), &shown)?;
        let passphrase = match &self.passphrase {
            Some(passphrase) => passphrase.clone(),
            None => {
                // An agent that is of no use is no reason to fail.
                if let Ok(Some(signer)) = self.by_agent(&public).await {
                    return Ok(signer);
                }
                ask(&shown, events).await?
            }
        };
        let decrypted = key.decrypt(passphrase.expose_secret());
        let decrypted = decrypted.map_err(|_| {
            Error::new(format!("unlocking the signing key {shown}"))
                .kind(Kind::Usage)
                .cause("the passphrase is another")
        })?;
        Signer::new(&decrypted, &shown)
    }
}

async fn ask(shown: &str, events: &Events) -> Result<SecretString> {
    use std::io::IsTerminal;
    let doing = || format!("unlocking the signing key {shown}");
    if !std::io::stdin().is_terminal() || crate::ui::is_ci() {
        return Err(Error::new(doing())
            .kind(Kind::Usage)
            .cause("it has a passphrase, and there is no terminal to ask for it on")
            .hint(format!("set {PASSPHRASE}, or `ssh-add` the key")));
    }
    let ask = || events.note(format!("passphrase of the signing key {shown}:"));
    let line = terminal::secret(ask).await.doing(doing)?;
    Ok(SecretString::from(line.trim_end_matches(['\r', '\n'])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;
    use ssh_key::rand_core::OsRng;
    use std::os::unix::fs::PermissionsExt;

    fn signing(home: &Path, key: Option<&Path>, passphrase: Option<&str>) -> Signing {
        Signing {
            dirs: Dirs::under(home),
            key: key.map(Path::to_owned),
            passphrase: passphrase.map(SecretString::from),
            agent: None,
            unlocked: Mutex::default(),
        }
    }

    fn write(path: &Path, key: &PrivateKey) {
        std::fs::write(path, key.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn quiet() -> Events {
        Events::new("x", vec![])
    }

    #[tokio::test]
    async fn what_is_signed_is_verified_by_the_public_key_and_no_other() {
        let home = tempfile::tempdir().unwrap();
        let signing = signing(home.path(), None, None);
        let signer = signing.signer(None, &quiet()).await.unwrap();
        let signature = signer.sign(b"message").await.unwrap();
        assert!(signer.public().has_signed(b"message", &signature));
        assert!(!signer.public().has_signed(b"Message", &signature));
        let other = PublicKey::new([9; 32], "");
        assert!(!other.has_signed(b"message", &signature));
        let again = signing.signer(None, &quiet()).await.unwrap();
        assert_eq!(again.public(), signer.public());
    }

    #[tokio::test]
    async fn the_environments_key_goes_before_the_recipes_and_that_before_our_own() {
        let home = tempfile::tempdir().unwrap();
        let (a, b) = (home.path().join("a"), home.path().join("b"));
        for path in [&a, &b] {
            write(
                path,
                &PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap(),
            );
        }
        let who = async |environment: Option<&Path>, recipe: Option<&Path>| -> Result<String> {
            let signing = signing(home.path(), environment, None);
            let signer = signing.signer(recipe, &quiet()).await?;
            Ok(signer.public().fingerprint())
        };
        let own = who(None, None).await.unwrap();
        let (of_a, of_b) = (
            who(Some(&a), None).await.unwrap(),
            who(None, Some(&b)).await.unwrap(),
        );
        assert_eq!(who(Some(&a), Some(&b)).await.unwrap(), of_a);
        assert!(own != of_a && own != of_b && of_a != of_b);
        let missing = who(Some(&home.path().join("c")), None).await.unwrap_err();
        assert_eq!(missing.get_kind(), Kind::Usage);
    }

    #[tokio::test]
    async fn a_key_with_a_passphrase_needs_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("locked");
        let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
        write(&path, &key.encrypt(&mut OsRng, "correct").unwrap());
        let events = quiet();
        let signing = signing(home.path(), Some(&path), Some("correct"));
        let signer = signing.signer(None, &events).await.unwrap();
        assert_eq!(events.masked("it is correct"), "it is ********");
        assert_eq!(
            signer.public(),
            &PublicKey::of(key.public_key(), "x").unwrap()
        );
        let signing = self::signing(home.path(), Some(&path), Some("wrong"));
        let error = signing.signer(None, &quiet()).await.unwrap_err();
        assert!(error.to_string().contains("passphrase"), "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
}
