//! Versions in the registry.

use super::digest::{Algorithm, Digest};
use super::resolve::{Place, Resolved};
use super::{Context, Verified};
use crate::error::{Error, Result};
use crate::store::Registry;
use crate::store::registry::Reference;

/// The version that a name stands for now.
///
/// Errors: there is none ([`crate::error::Kind::Usage`]); it was revoked ([`crate::error::Kind::Verification`]).
pub(super) fn resolve(reference: &Reference, cx: &Context<'_>) -> Result<Resolved> {
    let version = Registry::open(cx.dirs)?.find(reference)?;
    version.refuse_revoked(format!("building on {reference}"))?;
    let digest = Digest::new(Algorithm::Sha256, &version.sha256).ok_or_else(|| {
        Error::new(format!("building on {reference}"))
            .cause("the registry has no digest of it")
            .hint("`imgbuild doctor` checks the registry")
    })?;
    Ok(Resolved {
        origin: version.name(),
        expected: Some(digest),
        verified: Verified::Registry {
            version: version.name(),
        },
        place: Place::File(version.path),
    })
}
