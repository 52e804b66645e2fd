//! Who somebody is, and what they may do.

use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::percent_decode_str;

use crate::reply::Failure;

/// Users, tokens and access control lists.
#[derive(Default)]
pub struct Access {
    /// Passwords by user id.
    pub users: BTreeMap<String, String>,
    /// Secrets by token id.
    pub tokens: BTreeMap<String, String>,
    grants: Vec<Grant>,
    /// Users by ticket.
    tickets: BTreeMap<String, Ticket>,
}

struct Grant {
    path: String,
    who: String,
    privileges: BTreeSet<String>,
    propagate: bool,
}

#[derive(Clone)]
pub struct Ticket {
    pub user: String,
    pub csrf: String,
}

/// The credentials that a call may have.
#[derive(Default)]
pub struct Credentials<'c> {
    pub authorization: Option<&'c str>,
    pub cookie: Option<&'c str>,
    pub csrf: Option<&'c str>,
}

impl Access {
    pub fn grant(&mut self, path: &str, who: &str, privileges: &[&str], propagate: bool) {
        self.grants.push(Grant {
            path: path.into(),
            who: who.into(),
            privileges: privileges.iter().map(|&name| name.into()).collect(),
            propagate,
        });
    }

    pub fn revoke(&mut self, who: &str) {
        self.grants.retain(|grant| grant.who != who);
    }

    /// Puts other privileges in the place of one, wherever it was granted.
    pub fn rename(&mut self, old: &str, new: &[&str]) {
        for grant in &mut self.grants {
            if grant.privileges.remove(old) {
                grant
                    .privileges
                    .extend(new.iter().map(|&name| name.to_owned()));
            }
        }
    }

    /// A new ticket, if the password is right.
    pub fn log_in(&mut self, user: &str, password: &str) -> Result<(String, Ticket), Failure> {
        if self.users.get(user).is_none_or(|known| known != password) {
            return Err(Failure::new(401, "authentication failure"));
        }
        let name = format!("PVE:{user}:{}", crate::random::hex(16));
        let ticket = Ticket {
            user: user.into(),
            csrf: format!("{:08X}:{}", 0x6B00_0000, crate::random::hex(16)),
        };
        self.tickets.insert(name.clone(), ticket.clone());
        Ok((name, ticket))
    }

    /// Who calls: a user id or a token id. What comes with a ticket and changes something needs the token against forged
    /// calls as well.
    pub fn who(&self, credentials: &Credentials<'_>, changes: bool) -> Result<String, Failure> {
        let ticket = credentials.cookie.and_then(|cookie| {
            cookie
                .split(';')
                .find_map(|part| part.trim().strip_prefix("PVEAuthCookie="))
        });
        if let Some(ticket) = ticket {
            let ticket = percent_decode_str(ticket).decode_utf8_lossy();
            let known = self
                .tickets
                .get(ticket.as_ref())
                .ok_or_else(|| Failure::unauthorized("Authentication failed!"))?;
            if changes && credentials.csrf != Some(known.csrf.as_str()) {
                return Err(Failure::unauthorized(
                    "Permission denied - invalid csrf token",
                ));
            }
            return Ok(known.user.clone());
        }
        let token = credentials
            .authorization
            .and_then(|value| value.strip_prefix("PVEAPIToken="))
            .ok_or_else(|| Failure::unauthorized("No ticket"))?;
        match token.rsplit_once('=') {
            Some((id, secret)) if self.tokens.get(id).is_some_and(|known| known == secret) => {
                Ok(id.into())
            }
            _ => Err(Failure::unauthorized("Authentication failed!")),
        }
    }

    /// What somebody may do at a path. The grants on the longest path count, and no others.
    pub fn privileges(&self, who: &str, path: &str) -> BTreeSet<String> {
        if who == "root@pam" {
            let all = crate::setup::BUILDER
                .iter()
                .chain(&["Permissions.Modify", "Sys.Modify"]);
            return all.map(|&name| name.into()).collect();
        }
        let mut path = path.to_owned();
        let mut exact = true;
        loop {
            let here: Vec<_> = self
                .grants
                .iter()
                .filter(|grant| grant.who == who && grant.path == path)
                .filter(|grant| exact || grant.propagate)
                .collect();
            if !here.is_empty() {
                let all = here.iter().flat_map(|grant| &grant.privileges);
                return all.cloned().collect();
            }
            // Nobody has anything at what is no path.
            let Some(cut) = path.rfind('/').filter(|_| path != "/") else {
                return BTreeSet::new();
            };
            exact = false;
            path.truncate(cut.max(1));
        }
    }

    /// All paths that grants of somebody name.
    pub fn paths(&self, who: &str) -> BTreeSet<String> {
        let theirs = self.grants.iter().filter(|grant| grant.who == who);
        theirs.map(|grant| grant.path.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_on_a_longer_path_replaces_what_was_inherited() {
        let mut access = Access::default();
        access.grant("/", "a@pve", &["VM.Audit"], true);
        access.grant("/vms/100", "a@pve", &["VM.Clone"], true);
        access.grant("/storage", "a@pve", &["Datastore.Audit"], false);
        let names = |path| Vec::from_iter(access.privileges("a@pve", path));
        assert_eq!(names("/vms/101"), ["VM.Audit"]);
        assert_eq!(names("/vms/100"), ["VM.Clone"]);
        assert_eq!(names("/storage"), ["Datastore.Audit"]);
        assert_eq!(names("/storage/x"), ["VM.Audit"], "not propagated");
    }
}
