//! From `[source]` to what it stands for.

use std::ops::Range;
use std::path::PathBuf;

use super::Facts;
use super::resolve::path;
use crate::recipe::{Recipe, Spanned};
use crate::source::{Signature, Spec, Verify};
use crate::store::registry::{self, Reference};

pub(super) fn source(recipe: &Recipe, facts: &Facts) -> Spec {
    let base = &recipe.base;
    let text = |value: &Option<Spanned<String>>| value.as_ref().map(|v| v.get_ref().clone());
    let local_or_url = |value: &Spanned<String>| match value.get_ref().contains("://") {
        true => value.get_ref().clone(),
        false => path(recipe, value).to_string_lossy().into_owned(),
    };
    let signature = base.signature.as_ref().zip(base.key.as_ref());
    let signature = signature.map(|(location, key)| Signature {
        location: local_or_url(location),
        key: path(recipe, key),
    });
    let checksums = base.checksums.as_ref().map(|list| Verify::Checksums {
        list: local_or_url(list),
        signature,
    });
    let sha256 = text(&base.sha256).map(|digest| digest.to_ascii_lowercase());
    let verify = sha256.map(Verify::Sha256).or(checksums);
    let mirrors = base.mirrors.iter().map(|m| m.get_ref().clone()).collect();
    if base.recipe.is_some() {
        let path = facts.parent.clone().unwrap_or_default();
        return Spec::Built { path };
    }
    // A valid recipe names a version as one is named.
    let version = base.image.as_ref().map(|image| image.get_ref().parse());
    if let Some(Ok(reference)) = version {
        let reference = there(reference, facts.target.as_deref());
        return Spec::Version { reference };
    }
    if let Some(template) = &base.template {
        let template = template.get_ref().0.clone();
        return Spec::Template { template };
    }
    if let Some(nixos) = base.nixos.as_ref().map(Spanned::get_ref) {
        return Spec::Nixos {
            flake: local_flake(recipe, &nixos.flake),
            file: text(&nixos.file),
        };
    }
    match (
        text(&base.ubuntu),
        text(&base.debian),
        text(&base.url),
        verify,
    ) {
        (Some(release), ..) => Spec::Ubuntu { release, mirrors },
        (_, Some(release), ..) => Spec::Debian { release, mirrors },
        (_, _, Some(url), Some(verify)) => Spec::Url {
            url,
            mirrors,
            verify,
        },
        // A valid recipe has one of them, and a URL has its digest or list.
        (_, _, _, verify) => Spec::File {
            path: base
                .file
                .as_ref()
                .map_or_else(PathBuf::new, |file| path(recipe, file)),
            verify,
        },
    }
}

/// The version that is meant where it is built: images on a target are others than those here, whatever their names are.
fn there(reference: Reference, target: Option<&str>) -> Reference {
    match registry::on_target(&reference.image) {
        Some(_) => reference,
        None => Reference {
            image: registry::name(&reference.image, target),
            ..reference
        },
    }
}

/// Where the recipe says what its source is.
pub(super) fn span(recipe: &Recipe) -> Range<usize> {
    let base = &recipe.base;
    let texts = [
        &base.ubuntu,
        &base.debian,
        &base.url,
        &base.file,
        &base.recipe,
        &base.image,
    ];
    let text = texts.into_iter().flatten().map(Spanned::span).next();
    let nixos = base.nixos.as_ref().map(Spanned::span);
    let template = base.template.as_ref().map(Spanned::span);
    // A valid recipe has one of them.
    text.or(nixos).or(template).unwrap_or_default()
}

/// A flake's reference: one that is a path starts at the recipe's folder.
fn local_flake(recipe: &Recipe, written: &Spanned<String>) -> String {
    let text = written.get_ref();
    let (place, output) = text.split_once('#').unwrap_or((text, ""));
    if !place.starts_with('.') && !place.starts_with('/') {
        return text.clone();
    }
    let place = path(recipe, &Spanned::new(written.span(), place.to_owned()));
    let place = place.canonicalize().unwrap_or(place);
    format!("path:{}#{output}", place.display())
}
