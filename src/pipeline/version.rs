//! The version that a build makes: the one that is there already, or a new one.

use super::Artifact;
use crate::error::{Error, Kind, Result};
use crate::plan::{Action, Keys, Plan, Step};
use crate::provenance::Files;
use crate::provision;
use crate::record::{self, TemplateFile};
use crate::run::Run;
use crate::source::{self, Basis};
use crate::store::registry::{Claim, Registry, Reserved, reference};
use crate::store::{Dirs, artifact, outputs};

/// The image that is there, if a build would make the same. One that was revoked is to be made again.
pub fn up_to_date(
    plan: &Plan,
    keys: &Keys,
    dirs: &Dirs,
    registry: &Registry,
) -> Result<Option<Artifact>> {
    let link = &plan.output.path;
    let path = artifact::current(link);
    let record = record::path(&path);
    let Some(built) = outputs::recall(dirs, link, &record) else {
        return Ok(None);
    };
    let same = Some(&built.key) == keys.image.as_ref();
    let all_there = plan.all_steps().all(|step| !lacks_download(step));
    let files = Files::of(&path);
    let signed = files.all().iter().all(|file| file.exists());
    let version = registry.at(&path)?;
    let good = version.filter(|version| {
        let named = version.image == plan.registered() && version.sha256 == built.sha256;
        same && all_there && signed && named && version.revoked.is_none()
    });
    let template = match TemplateFile::is(&path) && good.is_some() {
        true => Some(TemplateFile::read(&path)?),
        false => None,
    };
    Ok(good.map(|version| Artifact {
        template,
        version: version.number,
        label: version.label,
        path,
        link: link.clone(),
        size: built.size,
        sha256: built.sha256,
        record,
        provenance: files.statement,
        up_to_date: true,
    }))
}

/// Reserves the version that is to be built.
pub(super) fn reserve(
    plan: &Plan,
    base: &Basis,
    run: &Run,
    registry: &mut Registry,
) -> Result<Reserved> {
    let now = jiff::Timestamp::now();
    let label = plan.version.as_ref();
    let label = label
        .map(|format| reference::label(format, now))
        .transpose();
    let label = label.map_err(|wrong| {
        Error::new(format!("naming a version of {}", plan.name))
            .kind(Kind::Usage)
            .cause(wrong)
    })?;
    registry.reserve(&Claim {
        image: &plan.registered(),
        label: label.as_deref(),
        build: &run.id,
        link: &plan.output.path,
        base: &base.path,
        base_sha256: &base.digest.hex,
        asked: match &plan.source {
            source::Spec::Version { reference } => Some(reference),
            _ => None,
        },
    })
}

/// Whether the step brings a file to this machine that is not there.
pub(super) fn lacks_download(step: &Step) -> bool {
    match &step.action {
        Action::Download { from, to } => !provision::download_target(from, to).exists(),
        _ => false,
    }
}
