//! Merging the user's user-data with the build's own. cloud-init does the merging: both go in as parts of a MIME
//! archive, so that anything cloud-init takes (cloud-config, a script, a jinja template) can stand beside ours.

use serde_json::Value;

/// The user's user-data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserData {
    /// A file's content; its first line says what it is, as cloud-init wants it.
    Text(String),
    /// cloud-config written as a table in the recipe.
    Config(Value),
}

/// cloud-init replaces lists by default; ours must be added to the user's, in either order.
const MERGE: &str = "list(append)+dict(no_replace,recurse_list)+str()";

/// What goes into the seed as `user-data`: ours alone, or an archive of both.
pub fn merge(ours: &Value, theirs: Option<&UserData>) -> String {
    let Some(theirs) = theirs else {
        return cloud_config(ours);
    };
    let theirs = match theirs {
        UserData::Text(text) => text.clone(),
        UserData::Config(config) => cloud_config(config),
    };
    let mut ours = ours.clone();
    ours["merge_how"] = MERGE.into();
    // Theirs comes first: what is merged into it by our rules is ours.
    archive(&[&theirs, &cloud_config(&ours)])
}

/// JSON is YAML, with every key on a line of its own.
fn cloud_config(config: &Value) -> String {
    format!("#cloud-config\n{config:#}\n")
}

fn archive(parts: &[&str]) -> String {
    let mut number = 0;
    let boundary = loop {
        let boundary = format!("imgbuild-part-{number}");
        if parts.iter().all(|part| !part.contains(&boundary)) {
            break boundary;
        }
        number += 1;
    };
    let mut text =
        format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n");
    for part in parts {
        // With text/plain cloud-init looks at the first line of the part, as it does without an archive.
        text.push_str(&format!(
            "--{boundary}\nContent-Type: text/plain; charset=\"utf-8\"\nMIME-Version: 1.0\nContent-Transfer-Encoding: 8bit\n\n{part}\n"
        ));
    }
    text + &format!("--{boundary}--\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn without_user_data_ours_goes_in_as_it_is() {
        let text = merge(&json!({"users": []}), None);
        assert_eq!(text, "#cloud-config\n{\n  \"users\": []\n}\n");
    }

    #[test]
    fn a_script_of_the_users_becomes_a_part_of_its_own() {
        let theirs = UserData::Text("#!/bin/sh\necho imgbuild-part-0\n".into());
        let text = merge(&json!({"users": []}), Some(&theirs));
        assert!(text.contains("boundary=\"imgbuild-part-1\""), "{text}");
        assert_eq!(text.matches("--imgbuild-part-1\n").count(), 2);
        assert!(text.contains("\n\n#!/bin/sh\n"));
        assert!(text.contains("\n\n#cloud-config\n{\n  \"merge_how\": \"list(append)"));
    }
}
