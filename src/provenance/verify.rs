//! Whether what stands beside an image is about it, and is signed by somebody who is trusted.

use jiff::Timestamp;
use serde::Serialize;

use super::bundle::Bundle;
use super::dsse::{Envelope, PAYLOAD_TYPE};
use super::policy::{Facts, Policy};
use super::statement::{BUILD_TYPE, PREDICATE_TYPE, Statement, TYPE};
use crate::signing::PublicKey;

/// A rule, and whether it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub rule: String,
    pub holds: bool,
    /// What was found.
    pub told: String,
}

impl Check {
    /// The outcome of a rule.
    pub fn new(rule: impl Into<String>, holds: bool, told: impl Into<String>) -> Self {
        Check {
            rule: rule.into(),
            holds,
            told: super::one_line(&told.into()),
        }
    }
}

/// A statement whose signature is good.
#[derive(Debug)]
pub struct Signed {
    pub signer: PublicKey,
    pub statement: Statement,
    /// What was signed, byte by byte.
    pub payload: Vec<u8>,
    envelope: Envelope,
}

/// Checks the signature over the statement. Nothing in the envelope is worth a look if that does not hold.
pub fn signature(envelope: &[u8], keys: &[PublicKey]) -> Result<Signed, Check> {
    let failed = |told: String| Check::new("signature", false, told);
    let unreadable = |error: crate::error::Error| failed(error.to_string());
    let envelope = Envelope::read(envelope).map_err(unreadable)?;
    let payload = envelope.payload().map_err(unreadable)?;
    let signer = envelope.signer(keys).map_err(unreadable)?;
    let Some(signer) = signer else {
        let named: Vec<&str> = envelope
            .signatures
            .iter()
            .map(|signature| signature.keyid.as_str())
            .collect();
        let trusted = keys.iter().map(PublicKey::fingerprint);
        let known = trusted
            .into_iter()
            .find(|trusted| named.contains(&trusted.as_str()));
        return Err(failed(match (known, named.as_slice()) {
            (Some(key), _) => {
                format!("it is not what {key} has signed: something was changed")
            }
            (None, []) => "nobody has signed it".into(),
            (None, named) => format!("the key {} is not trusted", named.join(", ")),
        }));
    };
    let statement = Statement::read(&payload).map_err(unreadable)?;
    let kinds = [
        (envelope.payload_type.as_str(), PAYLOAD_TYPE),
        (&statement.kind, TYPE),
        (&statement.predicate_type, PREDICATE_TYPE),
        (&statement.predicate.build_definition.build_type, BUILD_TYPE),
    ];
    if let Some((found, wanted)) = kinds.into_iter().find(|(found, wanted)| found != wanted) {
        let told = format!("what was signed is `{found}` instead of `{wanted}`");
        return Err(Check::new("statement", false, told));
    }
    Ok(Signed {
        signer: signer.clone(),
        statement,
        payload,
        envelope,
    })
}

/// What stands beside the image.
pub struct Beside<'b> {
    /// The image's file name and its sha256.
    pub file: &'b str,
    pub sha256: &'b str,
    /// Those that are there; without them the envelope is enough.
    pub statement: Option<&'b [u8]>,
    pub bundle: Option<&'b [u8]>,
    /// Other files that are there, by name.
    pub others: &'b [(String, Vec<u8>)],
    pub policy: Option<&'b Policy>,
    pub now: Timestamp,
}

impl Signed {
    /// Checks everything else.
    pub fn check(&self, beside: &Beside<'_>) -> Vec<Check> {
        let signer = self.signer.fingerprint();
        let mut checks = vec![Check::new("signature", true, format!("signed by {signer}"))];
        checks.push(self.subject(beside));
        if let Some(text) = beside.statement {
            let told = "the statement beside the image is what was signed";
            let other = "the statement beside the image is not what was signed";
            let holds = text == self.payload;
            checks.push(Check::new(
                "statement",
                holds,
                if holds { told } else { other },
            ));
        }
        if let Some(text) = beside.bundle {
            let same = Bundle::read(text).is_ok_and(|bundle| bundle.dsse_envelope == self.envelope);
            let told = match same {
                true => "the sigstore bundle is about the same",
                false => "the sigstore bundle is about something else",
            };
            checks.push(Check::new("bundle", same, told));
        }
        let mut packages = None;
        for (name, bytes) in beside.others {
            let byproduct = self.statement.byproduct(name);
            let holds = byproduct.is_some_and(|known| known.digest == super::digests(bytes));
            let told = match (holds, byproduct) {
                (true, _) => format!("{name} is what was signed"),
                (false, Some(_)) => format!("{name} was changed"),
                (false, None) => format!("{name} is not from this build"),
            };
            if holds && name.ends_with(".sbom.cdx.json") {
                packages = Some(bytes.as_slice());
            }
            checks.push(Check::new("file", holds, told));
        }
        if let Some(policy) = beside.policy {
            checks.extend(policy.apply(&Facts {
                signer: &self.signer,
                statement: &self.statement,
                packages,
                now: beside.now,
            }));
        }
        checks
    }

    /// The image itself: its content, and its name.
    fn subject(&self, beside: &Beside<'_>) -> Check {
        let subjects = self.statement.subject.as_slice();
        // The file comes first. A second one is a disk on a server, which its file names.
        let ([subject] | [subject, _]) = subjects else {
            let told = format!("it is about {} things instead of one", subjects.len());
            return Check::new("subject", false, told);
        };
        let expected = subject.digest.get("sha256").map_or("", String::as_str);
        if expected != beside.sha256 {
            let told = format!(
                "the image has sha256 {}, signed was {expected}",
                beside.sha256
            );
            return Check::new("subject", false, told);
        }
        let holds = subject.name == beside.file;
        let told = match holds {
            true => format!("{} has sha256 {expected}", beside.file),
            false => format!("what was signed is called {}", subject.name),
        };
        Check::new("subject", holds, told)
    }
}
