//! The variables that other tools for Proxmox VE read: Terraform's providers (`PROXMOX_VE_`, `PM_`) and Packer (`PROXMOX_`).
//! They fill in what `imgbuild.toml` leaves out. What the file says stays: with several targets, one variable cannot be
//! meant for all of them.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::{FILE, Login, Value};
use crate::secret::LOGINS;

/// Where the endpoint may be, in the order in which they are looked at.
pub const ENDPOINTS: [&str; 3] = ["PROXMOX_VE_ENDPOINT", "PROXMOX_URL", "PM_API_URL"];

/// Where a token may be, for a hint.
pub const TOKENS: &str = "PROXMOX_VE_API_TOKEN, PROXMOX_USERNAME and PROXMOX_TOKEN, or PM_API_TOKEN_ID and PM_API_TOKEN_SECRET";

/// Users and their passwords, in the order in which they are looked at.
const PASSWORDS: [(&str, &str); 3] = [
    ("PROXMOX_VE_USERNAME", "PROXMOX_VE_PASSWORD"),
    ("PROXMOX_USERNAME", "PROXMOX_PASSWORD"),
    ("PM_USER", "PM_PASS"),
];

/// A token's two parts, in the order in which they are looked at.
const PARTS: [(&str, &str); 2] = [
    ("PROXMOX_USERNAME", "PROXMOX_TOKEN"),
    ("PM_API_TOKEN_ID", "PM_API_TOKEN_SECRET"),
];

const WHOLE_TOKEN: &str = "PROXMOX_VE_API_TOKEN";

/// The variables of the environment that are of interest here.
pub struct Environment(BTreeMap<String, String>);

/// A value and where it comes from.
pub struct Found {
    pub value: String,
    pub from: String,
}

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Self {
        let ours = |name: &String| LOGINS.iter().any(|login| name.starts_with(login));
        let all = std::env::vars_os();
        let texts = all.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Environment::of(texts.filter(|(name, _)| ours(name)))
    }

    /// These. Empty ones are none.
    pub fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let set = variables.into_iter().filter(|(_, value)| !value.is_empty());
        Environment(set.collect())
    }

    fn get(&self, name: &str) -> Option<&String> {
        self.0.get(name)
    }

    /// The endpoint that counts; `written` is what the file has.
    pub fn endpoint(&self, written: Option<&String>) -> Option<Found> {
        let mut set = ENDPOINTS
            .into_iter()
            .filter(|name| self.get(name).is_some());
        let Some(written) = written else {
            let name = set.next()?;
            return Some(Found {
                value: self.get(name)?.clone(),
                from: format!("{name} in the environment"),
            });
        };
        for name in set.filter(|name| self.get(name) != Some(written)) {
            tracing::debug!("{name} is not used: {FILE} has an endpoint");
        }
        Some(Found {
            value: written.clone(),
            from: FILE.into(),
        })
    }

    /// The login that the environment has: a token rather than a password.
    pub fn login(&self) -> Option<Login> {
        if let Some(token) = self.get(WHOLE_TOKEN) {
            return Some(Login::Token(known(token, WHOLE_TOKEN)));
        }
        let parts = PARTS.into_iter().find_map(|(id, secret)| {
            let token = format!("{}={}", self.get(id)?, self.get(secret)?);
            Some(Login::Token(known(&token, secret)))
        });
        parts.or_else(|| {
            PASSWORDS.into_iter().find_map(|(user, password)| {
                Some(Login::Password {
                    user: self.get(user)?.clone(),
                    password: known(self.get(password)?, password),
                })
            })
        })
    }

    /// Tells the log that the file's login is taken, where the environment has one, too.
    pub fn unused_login(&self) {
        if let Some(login) = self.login() {
            tracing::debug!("{} is not used: {FILE} has a login", login.told());
        }
    }
}

fn known(value: &str, variable: &str) -> Value {
    Value::Known(SecretString::from(value), variable.to_owned())
}
