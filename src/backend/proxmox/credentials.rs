//! Who we are to the server: an API token, or a ticket that a password was given for.

use std::fmt;

use reqwest::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::call::encode;

/// A login. Its secret part is never shown.
#[derive(Clone)]
pub enum Credentials {
    Token {
        /// `USER@REALM!NAME`
        id: String,
        secret: SecretString,
    },
    Password {
        /// `USER@REALM`
        user: String,
        password: SecretString,
    },
}

/// What a login by password gives. The server takes it for two hours.
#[derive(Clone)]
pub struct Ticket {
    pub cookie: SecretString,
    /// Goes with every request that changes something.
    pub csrf: SecretString,
}

impl Credentials {
    /// Reads `USER@REALM!NAME=SECRET`.
    pub fn token(text: &SecretString) -> Result<Self, &'static str> {
        let text = text.expose_secret().trim();
        // The field's tools also want it as the header has it.
        let text = text.strip_prefix("PVEAPIToken=").unwrap_or(text);
        let (id, secret) = text.split_once('=').ok_or("it has no `=`")?;
        let (user, name) = id.split_once('!').ok_or("it has no `!`")?;
        if !user.contains('@') || name.is_empty() || secret.is_empty() {
            return Err("a part of it is missing");
        }
        let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !printable(id) || !printable(secret) {
            return Err("it has characters that no token has");
        }
        Ok(Credentials::Token {
            id: id.to_owned(),
            secret: SecretString::from(secret),
        })
    }

    /// The part that nobody may see.
    pub fn secret(&self) -> &SecretString {
        match self {
            Credentials::Token { secret, .. } => secret,
            Credentials::Password { password, .. } => password,
        }
    }

    /// Who that is: a user, or a user's token.
    pub fn identity(&self) -> &str {
        match self {
            Credentials::Token { id, .. } => id,
            Credentials::Password { user, .. } => user,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.identity())
    }
}

/// The headers of a token.
pub fn token_headers(id: &str, secret: &SecretString) -> Option<HeaderMap> {
    let value = format!("PVEAPIToken={id}={}", secret.expose_secret());
    Some(HeaderMap::from_iter([(AUTHORIZATION, sensitive(&value)?)]))
}

/// The headers of a ticket.
pub fn ticket_headers(ticket: &Ticket) -> Option<HeaderMap> {
    let cookie = format!("PVEAuthCookie={}", encode(ticket.cookie.expose_secret()));
    let csrf = HeaderName::from_static("csrfpreventiontoken");
    Some(HeaderMap::from_iter([
        (COOKIE, sensitive(&cookie)?),
        (csrf, sensitive(ticket.csrf.expose_secret())?),
    ]))
}

/// A header that no library logs.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_and_its_secret_never_shown() {
        for text in ["me@pve!ci=abc-def", "PVEAPIToken=me@pve!ci=abc-def\n"] {
            let token = Credentials::token(&SecretString::from(text)).unwrap();
            assert_eq!(token.identity(), "me@pve!ci");
            assert_eq!(format!("{token:?}"), "Credentials(me@pve!ci)");
        }
        for wrong in [
            "",
            "abc-def",
            "me@pve=abc",
            "me!ci=abc",
            "me@pve!ci=",
            "me@pve!ci=a\nb",
        ] {
            Credentials::token(&SecretString::from(wrong)).unwrap_err();
        }
    }
}
