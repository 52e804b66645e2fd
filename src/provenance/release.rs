//! What is written into the image itself, just before it is sealed.

use serde::Serialize;

use super::statement::BuildDefinition;
use crate::error::Result;
use crate::proc::quote;

/// Says which image this is, for shells.
pub const RELEASE: &str = "/etc/imgbuild-release";
/// What the image was made from, as far as it is known before sealing.
pub const INPUTS: &str = "/usr/share/imgbuild/inputs.json";

/// The version of the format of [`INPUTS`].
const SCHEMA: u32 = 1;

/// What an image says of itself.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Release<'r> {
    pub name: &'r str,
    pub version: &'r str,
    /// What the version is called besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<&'r str>,
    pub build_id: &'r str,
    /// The sha256 of the recipe's text.
    pub recipe: &'r str,
    /// When the build began, in RFC 3339.
    pub date: &'r str,
    pub build_definition: &'r BuildDefinition,
}

#[derive(Serialize)]
struct Inputs<'r> {
    schema: u32,
    #[serde(flatten)]
    release: &'r Release<'r>,
}

impl Release<'_> {
    /// Shell text that writes both files, as root.
    pub fn script(&self) -> Result<String> {
        let inputs = Inputs {
            schema: SCHEMA,
            release: self,
        };
        let inputs = super::json(&inputs)?;
        let inputs = String::from_utf8_lossy(&inputs);
        Ok(format!(
            "umask 022\nmkdir -p {folder}\nprintf '%s' {release} >{RELEASE}\nprintf '%s' {inputs} >{INPUTS}\n",
            folder = INPUTS.rsplit_once('/').map_or("/", |(folder, _)| folder),
            release = quote(&self.text()),
            inputs = quote(&inputs),
        ))
    }

    fn text(&self) -> String {
        let fields = [
            ("NAME", self.name),
            ("VERSION", self.version),
            ("LABEL", self.label.unwrap_or_default()),
            ("BUILD_ID", self.build_id),
            ("RECIPE_SHA256", self.recipe),
            ("DATE", self.date),
        ];
        fields
            .map(|(name, value)| format!("{name}={}\n", quote(value)))
            .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provenance::statement::{External, Image, Internal};
    use std::collections::BTreeMap;

    #[test]
    fn a_shell_reads_what_was_written_whatever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let definition = BuildDefinition {
            build_type: "x".into(),
            external_parameters: External {
                image: Image {
                    name: "web".into(),
                    version: "7".into(),
                    label: None,
                    description: "it's $HOME and `date`\n%s".into(),
                    labels: BTreeMap::new(),
                },
                recipe: "web.toml".into(),
                vars: BTreeMap::new(),
                secrets: vec![],
                left_out: vec![],
            },
            internal_parameters: Internal {
                import: false,
                machine: None,
                steps: vec![],
                tests: vec![],
                seal_kept: None,
                format: "qcow2".into(),
            },
            resolved_dependencies: vec![],
        };
        let release = Release {
            name: "web",
            version: "7's $(false)",
            label: Some("2026.11 'x'"),
            build_id: "b",
            recipe: "00",
            date: "2026-01-01T00:00:00Z",
            build_definition: &definition,
        };
        let root = folder.path().display().to_string();
        let script = release.script().unwrap();
        let script = script
            .replace(RELEASE, &format!("{root}/release"))
            .replace(INPUTS, &format!("{root}/share/inputs.json"))
            .replace("/usr/share/imgbuild", &format!("{root}/share"));
        let script =
            format!("set -eu\n{script}. {root}/release\nprintf '%s,%s' \"$VERSION\" \"$LABEL\"");
        let ran = std::process::Command::new("sh")
            .args(["-c", &script])
            .output();
        let ran = ran.unwrap();
        assert!(ran.status.success(), "{ran:?}");
        assert_eq!(ran.stdout, b"7's $(false),2026.11 'x'");
        let inputs = std::fs::read(folder.path().join("share/inputs.json")).unwrap();
        let inputs: serde_json::Value = serde_json::from_slice(&inputs).unwrap();
        let image = &inputs["buildDefinition"]["externalParameters"]["image"];
        assert_eq!(image["description"], "it's $HOME and `date`\n%s");
        assert_eq!(inputs["buildId"], "b");
    }
}
