//! The packages of a finished image, read from its disk.

use crate::disk::{Disk, Origin};
use crate::error::Result;
use crate::plan::{Action, Plan};
use crate::provenance::public_address;
use crate::provenance::sbom::{Inventory, Package, Tree};
use crate::seal::{self, Guest};

/// Partitions of these kinds hold no packages, or nobody can tell: boot code for instance.
const WITHOUT_PACKAGES: &[&str] = &["swap", "unknown"];

/// Lists what is on a disk, and what `fetch` put there. A list that is not complete says so; that is no reason
/// to lose the image.
pub(super) async fn inventory(disk: &Origin, plan: &Plan) -> Inventory {
    let read = read(disk).await;
    let mut inventory = read.unwrap_or_else(|error| Inventory {
        unread: vec![error.get_cause().unwrap_or(error.get_doing()).to_owned()],
        ..Inventory::default()
    });
    let steps = plan.steps.iter().chain(&plan.finally);
    let fetched = steps.filter_map(|step| {
        let Action::Fetch(fetch) = &step.action else {
            return None;
        };
        let url = public_address(fetch.urls.first()?)?;
        let digest = (fetch.digest.algorithm.name(), fetch.digest.hex.as_str());
        Package::fetched(fetch.name(), &url, digest)
    });
    inventory.extend(fetched);
    inventory
}

async fn read(disk: &Origin) -> Result<Inventory> {
    let doing = format!("listing the packages of {disk}");
    let work = |disk: Disk| {
        let (guest, unread) = seal::guest(&disk)?;
        let mut inventory = match guest {
            Some(guest) => Inventory::read(&guest),
            None => Inventory {
                unread: vec!["there is no root file system that can be read".into()],
                ..Inventory::default()
            },
        };
        let unread = unread
            .into_iter()
            .filter(|unread| !WITHOUT_PACKAGES.contains(&unread.kind.as_str()));
        let unread = unread.map(|unread| format!("{}: {}", unread.partition, unread.kind));
        inventory.unread.extend(unread);
        Ok(inventory)
    };
    disk.read("sbom", doing, work).await
}

impl Tree for Guest {
    fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        Guest::read(self, path.as_bytes(), limit)
    }

    fn glob(&self, pattern: &str) -> Result<Vec<String>> {
        let found = Guest::glob(self, pattern)?;
        let paths = found.into_iter().map(String::from_utf8);
        // A path that is no text is no package's.
        Ok(paths.filter_map(std::result::Result::ok).collect())
    }

    fn modified(&self, path: &str) -> Result<Option<i64>> {
        let metadata = self.metadata(path.as_bytes())?;
        Ok(metadata.map(|metadata| metadata.modified().seconds()))
    }
}
