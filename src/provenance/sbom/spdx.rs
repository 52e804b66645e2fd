//! SPDX 2.3 in JSON.

use serde_json::{Value, json};

use super::cyclonedx::uuid;
use super::{Inventory, Manager, Package, Subject};
use crate::error::Result;

/// The media type of the format.
pub const MEDIA_TYPE: &str = "application/spdx+json";

/// What SPDX says where nobody knows.
const UNKNOWN: &str = "NOASSERTION";

/// The document about an image.
pub fn document(subject: &Subject<'_>, inventory: &Inventory) -> Result<Vec<u8>> {
    let mut packages = vec![image(subject, inventory)];
    let mut relationships = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
        "relatedSpdxElement": "SPDXRef-Image",
    })];
    for (at, (purl, package)) in inventory.packages.iter().enumerate() {
        let id = format!("SPDXRef-Package-{}", at + 1);
        relationships.push(json!({
            "spdxElementId": "SPDXRef-Image", "relationshipType": "CONTAINS",
            "relatedSpdxElement": id,
        }));
        packages.push(described(&id, purl, package));
    }
    super::super::json(&json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.name,
        "documentNamespace": format!("urn:uuid:{}", uuid(subject)),
        "creationInfo": {
            "created": subject.created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "creators": [format!("Tool: imgbuild-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
    }))
}

fn image(subject: &Subject<'_>, inventory: &Inventory) -> Value {
    let mut comment = String::new();
    if let Some(os) = &inventory.os {
        comment = format!("{} {} ({})", os.id, os.version, os.name);
    }
    for unread in &inventory.unread {
        comment += &format!("\nnot read: {unread}");
    }
    let mut image = json!({
        "SPDXID": "SPDXRef-Image",
        "name": subject.name,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "checksums": [{"algorithm": "SHA256", "checksumValue": subject.sha256}],
    });
    if !comment.is_empty() {
        image["comment"] = comment.trim().into();
    }
    image
}

fn described(id: &str, purl: &str, package: &Package) -> Value {
    let mut value = json!({
        "SPDXID": id,
        "name": package.name,
        "downloadLocation": package.url.as_deref().unwrap_or(UNKNOWN),
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        // What packages call their licence is seldom one of SPDX' expressions.
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl,
        }],
    });
    if !package.version.is_empty() {
        value["versionInfo"] = package.version.as_str().into();
    }
    if let Some(licence) = &package.licence {
        value["licenseComments"] = format!("the package says: {licence}").into();
    }
    if let Some((algorithm, hex)) = &package.digest {
        let algorithm = algorithm.to_uppercase();
        value["checksums"] = json!([{"algorithm": algorithm, "checksumValue": hex}]);
    }
    if package.manager == Manager::None {
        value["primaryPackagePurpose"] = "FILE".into();
    }
    value
}
