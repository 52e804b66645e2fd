//! Revoking versions: they stay where they are, but nothing is built on them, and no channel is moved to them. What is being
//! built is reached as well, and is revoked when it is there.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::history::{Action, Event, record};
use super::versions::select;
use super::{Asked, Reference, Registry, Version};
use crate::error::{Error, Kind, Result};

/// Which versions are meant.
#[derive(Debug, Clone)]
pub struct Scope<'s> {
    pub reference: &'s Reference,
    /// All versions of the image that were built then or later, instead of the one that is named.
    pub since: Option<Timestamp>,
    /// What is built on them, too, and so on.
    pub descendants: bool,
}

impl Registry {
    /// Revokes versions; returns those that were not revoked before.
    pub fn revoke(&mut self, scope: &Scope<'_>, reason: &str) -> Result<Vec<Version>> {
        let now = Timestamp::now().as_millisecond();
        self.change(scope, Action::Revoked, Some((now, reason)))
    }

    /// Undoes revocations; returns the versions that were revoked.
    pub fn restore(&mut self, scope: &Scope<'_>) -> Result<Vec<Version>> {
        self.change(scope, Action::Restored, None)
    }

    fn change(
        &mut self,
        scope: &Scope<'_>,
        action: Action,
        revoked: Option<(i64, &str)>,
    ) -> Result<Vec<Version>> {
        let doing = || "changing revocations in the registry".to_owned();
        let named = self.find(scope.reference)?;
        let image = named.image.clone();
        let tx = self.begin()?;
        let mut meant = match scope.since {
            None => vec![named],
            Some(since) => {
                let later = "i.name = ?1 AND v.state <> 'removing' AND v.created >= ?2";
                select(&tx, later, params![image, since.as_millisecond()])?
            }
        };
        if meant.is_empty() {
            return Err(Error::new(format!("choosing versions of {image}"))
                .kind(Kind::Usage)
                .cause("none was built since then"));
        }
        if scope.descendants {
            meant = with_descendants(&tx, meant)?;
        }
        meant.retain(|version| version.revoked.is_some() != revoked.is_some());
        let (at, reason) = revoked.unzip();
        for version in &meant {
            let text = "UPDATE version SET revoked = ?2, reason = ?3 WHERE id = ?1";
            tx.execute(text, params![version.id, at, reason])
                .asked(doing)?;
            let event = Event {
                reason: reason.map(str::to_owned),
                ..Event::new(action, &version.image, version.number)
            };
            record(&tx, &event)?;
        }
        tx.commit().asked(doing)?;
        Ok(meant)
    }
}

fn with_descendants(db: &Connection, versions: Vec<Version>) -> Result<Vec<Version>> {
    let mut all = versions;
    let mut at = 0;
    while let Some(version) = all.get(at) {
        for child in select(db, "v.parent = ?1 AND v.state <> 'removing'", [version.id])? {
            if all.iter().all(|known| known.id != child.id) {
                all.push(child);
            }
        }
        at += 1;
    }
    Ok(all)
}
