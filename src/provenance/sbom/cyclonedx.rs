//! CycloneDX 1.6 in JSON.

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Inventory, Manager, Package, Subject};
use crate::error::Result;

/// The media type of the format.
pub const MEDIA_TYPE: &str = "application/vnd.cyclonedx+json";

/// What is read of a document again, which somebody else may have written.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Component {
    group: Option<String>,
    name: String,
    #[serde(default)]
    version: String,
    purl: Option<String>,
}

/// A package of a document, or something else in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// As package URLs call it; none for what is no package.
    pub manager: Option<String>,
    /// With npm's scope.
    pub name: String,
    /// Empty where nobody says.
    pub version: String,
    /// The package URL.
    pub purl: Option<String>,
}

/// Reads a document.
pub fn read(text: &[u8]) -> Result<Vec<Listed>, serde_json::Error> {
    let document: Document = serde_json::from_slice(text)?;
    let listed = document.components.into_iter().map(|component| {
        let kind = component.purl.as_deref().and_then(|purl| {
            let rest = purl.strip_prefix("pkg:")?;
            rest.split('/').next().map(str::to_owned)
        });
        Listed {
            manager: kind,
            name: match component.group {
                Some(group) => format!("{group}/{}", component.name),
                None => component.name,
            },
            version: component.version,
            purl: component.purl,
        }
    });
    Ok(listed.collect())
}

/// The document about an image.
pub fn document(subject: &Subject<'_>, inventory: &Inventory) -> Result<Vec<u8>> {
    let mut components = vec![];
    if let Some(os) = &inventory.os {
        components.push(json!({
            "type": "operating-system", "bom-ref": "os",
            "name": os.id, "version": os.version, "description": os.name,
        }));
    }
    let packages = inventory.packages.iter();
    components.extend(packages.map(|(purl, package)| component(purl, package)));
    let all: Vec<Value> = components
        .iter()
        .map(|component| component["bom-ref"].clone())
        .collect();
    // Nobody knows what is missing where something could not be read.
    let aggregate = match inventory.unread.is_empty() {
        true => "unknown",
        false => "incomplete",
    };
    let unread = inventory.unread.iter();
    let unread = unread.map(|what| json!({"name": "imgbuild:unread", "value": what}));
    super::super::json(&json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", uuid(subject)),
        "version": 1,
        "metadata": {
            "timestamp": subject.created.to_string(),
            "tools": {"components": [{
                "type": "application", "name": "imgbuild", "version": env!("CARGO_PKG_VERSION"),
            }]},
            "component": {
                "type": "container", "bom-ref": "image",
                "name": subject.name,
                "hashes": [{"alg": "SHA-256", "content": subject.sha256}],
            },
            "properties": unread.collect::<Vec<_>>(),
        },
        "components": components,
        "dependencies": [{"ref": "image", "dependsOn": all}],
        "compositions": [{"aggregate": aggregate, "assemblies": ["image"]}],
    }))
}

fn component(purl: &str, package: &Package) -> Value {
    let kind = match package.manager {
        Manager::None => "file",
        _ => "library",
    };
    let mut component = json!({
        "type": kind, "bom-ref": purl, "name": package.name, "purl": purl,
    });
    if !package.version.is_empty() {
        component["version"] = package.version.as_str().into();
    }
    // Of the distribution nothing is said here: its name is no part of a package's.
    if let Some(scope) = package
        .namespace
        .as_ref()
        .filter(|_| package.manager == Manager::Npm)
    {
        component["group"] = scope.as_str().into();
    }
    if let Some(licence) = &package.licence {
        component["licenses"] = json!([{"license": {"name": licence}}]);
    }
    if let Some(supplier) = &package.supplier {
        component["supplier"] = json!({"name": supplier});
    }
    if let Some((algorithm, hex)) = &package.digest {
        let algorithm = algorithm.to_uppercase().replace("SHA", "SHA-");
        component["hashes"] = json!([{"alg": algorithm, "content": hex}]);
    }
    if let Some(url) = &package.url {
        component["externalReferences"] = json!([{"type": "distribution", "url": url}]);
    }
    component
}

/// A name for the document that is the same for the same image.
pub(super) fn uuid(subject: &Subject<'_>) -> String {
    let digest = Sha256::digest(format!("imgbuild {} {}", subject.name, subject.sha256));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    // RFC 9562: version 8, whose bits are the maker's own; the variant.
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = crate::text::hex(&bytes);
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}
